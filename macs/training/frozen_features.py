"""What the frozen models of stage two compute, and the training set made of it: cached, or to be computed on the way.

The audio path (separator, CLAP) gives each recording's source embeddings, the VAE each frame's latent moments, the text
encoder the embedding of the empty prompt.
"""

import functools
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from diffusers import AutoencoderKL
from tqdm.contrib.concurrent import thread_map
from transformers import ClapConfig, CLIPTextModel, CLIPTokenizer

import macs.audio
import macs.data.pairs
from macs.audio import SAMPLE_RATE, AudioError, duration
from macs.data.buckets import nearest_bucket
from macs.data.pairs import PairedClips, PairError, describe, find_pairs, image_size, read_crop, read_image
from macs.loading import open_audio_models, separator_config, weight_files
from macs.training.feature_store import FeatureStore, cached_prompt, fill, read_features
from macs.training.xl import text_encoders

MIXTURES = 4  # separated at a time, twice as many on a GPU; CLAP embeds M times as many signals


class FrozenModels:
    """Separator, CLAP, VAE and text encoder, each loaded when it is first needed: with a complete cache, never.

    sd_path: a folder with vae, text_encoder, tokenizer. audio_paths: of separator and CLAP, as
    `macs.loading.audio_model_paths` finds them. num_sources: M. sizes: the training sizes [(height, width)].
    data_dir, cache_dir: of the recordings and frames and of what is computed; without cache_dir nothing is kept.
    num_crops: crops of each recording. num_workers: processes that read files.
    """

    def __init__(
        self, sd_path, audio_paths, num_sources, sizes, device, *, data_dir, cache_dir, num_crops, num_workers
    ):
        self.sd_path, self.audio_paths, self.device = Path(sd_path), audio_paths, device
        self.num_sources, self.sizes, self.num_crops, self.num_workers = num_sources, sizes, num_crops, num_workers
        self.data_dir, self.cache_dir = data_dir, cache_dir
        self.num_samples = separator_config(audio_paths[0])["num_samples"]  # of the separator's mixtures, at 16 kHz

    @property
    def is_xl(self):
        """Whether the generator is a Stable Diffusion XL: it has two text encoders."""
        return (self.sd_path / "text_encoder_2").is_dir()

    @functools.cached_property
    def audio(self):
        """(separator, CLAP)"""
        with torch.random.fork_rng(devices=[]):  # when they are loaded makes no difference to the training's dropout
            separator, clap = open_audio_models(*self.audio_paths, self.num_sources)
        separator.to(self.device, memory_format=torch.channels_last)  # its convolutions are faster so
        return separator.requires_grad_(False), clap.requires_grad_(False).to(self.device)

    @functools.cached_property
    def vae(self):
        config = AutoencoderKL.load_config(self.sd_path, subfolder="vae")
        # diffusers' default for all, though SDXL's VAE alone overflows in half precision
        overflows = self.is_xl and config.get("force_upcast", True)
        with torch.random.fork_rng(devices=[]):
            vae = AutoencoderKL.from_pretrained(
                self.sd_path, subfolder="vae", torch_dtype=torch.float32, force_upcast=overflows
            )
        return vae.requires_grad_(False).to(self.device)

    @functools.cached_property
    def text(self):
        """The function that encodes texts: a list of B str -> {"prompt_embeds": (B, 77, D)}; SDXL has a pooled one too.

        The names are those of the arguments of a pipeline's call.
        """
        if self.is_xl:
            with torch.random.fork_rng(devices=[]):
                return text_encoders(self.sd_path, self.device)
        with torch.random.fork_rng(devices=[]):
            encoder = CLIPTextModel.from_pretrained(self.sd_path, subfolder="text_encoder", dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(self.sd_path, subfolder="tokenizer")
        encoder.requires_grad_(False).to(self.device)

        def encode(prompts):
            tokens = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            return {"prompt_embeds": encoder(tokens.to(self.device))[0]}

        return encode

    def release(self, *names):
        """Frees what was loaded of "audio", "vae", "text", all by default; it is loaded again where it is needed."""
        for name in names or ("audio", "vae", "text"):
            self.__dict__.pop(name, None)

    @functools.cached_property
    def embedding_dim(self):
        """D, the length of CLAP's embeddings."""
        path = self.audio_paths[1]
        return (ClapConfig.from_pretrained(path) if path.is_dir() else ClapConfig()).projection_dim

    def files(self, *folders):
        """The files in folders of the generator that an output depends on."""
        return [file for folder in folders for file in weight_files(self.sd_path / folder)]  # none of a missing one

    @functools.cached_property
    def audio_store(self):
        """The cache's place of the source embeddings: (num_crops, M, D) for each recording."""
        settings = {"num_crops": self.num_crops, "num_samples": self.num_samples, "num_sources": self.num_sources}
        settings["reader"] = macs.audio.READER
        if separator_config(self.audio_paths[0])["raise_quiet"]:
            settings["raise_quiet"] = True
        files = [file for path in self.audio_paths for file in weight_files(path)]
        return FeatureStore(self.cache_dir, self.data_dir, "audio", settings, files)

    @functools.cached_property
    def image_store(self):
        """The cache's place of the latent moments: (2, 2C, h, w) for each frame and its mirror image."""
        settings = {"sizes": self.sizes, "reader": macs.data.pairs.READER}
        return FeatureStore(self.cache_dir, self.data_dir, "image", settings, self.files("vae"))

    def prompt_embeds(self):
        """What `encode_prompts` makes of the empty prompt."""
        if not self.cache_dir:
            return self.encode_prompts([""])
        files = self.files("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        return cached_prompt(self.cache_dir, files, lambda: self.encode_prompts([""]))

    @torch.no_grad()
    def encode_prompts(self, prompts):
        """list of B str -> {"prompt_embeds": (B, 77, D)}, for SDXL "pooled_prompt_embeds" (B, P) too."""
        return self.text(prompts)

    def complete(self, batch):
        """Adds source_embeds (B, M, D) and moments (B, 2C, h, w) to a batch of waveforms and pixels; a cache has them.

        What is not heard (batch["dropped"]) is not computed: its embeddings become zeros anyway.
        """
        if "moments" in batch:
            return batch
        separator, clap = self.audio
        heard = ~batch["dropped"]
        embeddings = torch.zeros(len(heard), self.num_sources, clap.config.projection_dim, device=heard.device)
        if heard.any():
            embeddings[heard] = embed_sources(separator, clap, batch["waveform"][heard]).float()
        return batch | {"source_embeds": embeddings, "moments": encode_images(self.vae, batch["pixels"])}

    def first_crops(self, accelerator, paths):
        """The source embeddings (N, M, D) of the first crops of recordings, out of the cache if there is one."""
        if not self.cache_dir:
            mixtures = [read_crop(path, 0, self.num_crops, self.num_samples) for path in paths]
            return embed_sources(*self.audio, torch.stack(mixtures))
        audio_features(self, paths, accelerator)
        return torch.stack([read_features(self.audio_store.entry(path), 0) for path in paths])


def read_crops(path, _, num_crops, num_samples):
    """The distinct crops of a recording, (k, num_samples) at 16 kHz: num_crops, or one where it is not longer."""
    distinct = num_crops if duration(path) > num_samples / SAMPLE_RATE else 1
    return torch.stack([read_crop(path, crop, num_crops, num_samples) for crop in range(distinct)])


@torch.no_grad()
def embed_sources(separator, clap, mixtures):
    """Mixtures (B, T) at 16 kHz -> source embeddings (B, M, D), unit norm; CLAP sees all signals of a batch at once."""
    embeddings = []
    for batch in mixtures.split(MIXTURES if separator.device.type == "cpu" else 2 * MIXTURES):
        sources = separator(separator.level(batch.to(separator.device)))
        embeddings.append(clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2]))
    return torch.cat(embeddings)


@torch.no_grad()
def encode_images(vae, pixels):
    """(B, 3, H, W) in [-1, 1] -> moments of the latents (B, 2C, h, w): mean and log-variance."""
    half = vae.device.type == "cuda" and not vae.config.force_upcast  # SDXL's overflows in half precision
    with torch.autocast(vae.device.type, torch.float16, enabled=half):
        return vae.encode(pixels.to(vae.device)).latent_dist.parameters.float()


def audio_features(frozen, paths, accelerator):
    """Fills the cache with the source embeddings of recordings; returns the messages of the unreadable ones."""
    num_crops = frozen.num_crops
    # no closure: it goes to the loader's processes
    read = functools.partial(read_crops, num_crops=num_crops, num_samples=frozen.num_samples)

    def make_encode():
        separator, clap = frozen.audio

        def encode(crops):
            per_clip = embed_sources(separator, clap, torch.cat(crops)).split([len(clip) for clip in crops])
            return torch.stack([embeddings.expand(num_crops, -1, -1) for embeddings in per_clip])

        return encode

    return fill(frozen.audio_store, dict.fromkeys(paths), read, make_encode, accelerator, frozen.num_workers)


def image_features(frozen, sizes, accelerator):
    """Fills the cache with the latent moments of frames {path: (height, width)}; returns messages likewise."""

    def make_encode():
        vae = frozen.vae

        def encode(pixels):
            flips = torch.stack([torch.stack(pixels), torch.stack(pixels).flip(-1)], dim=1)
            return encode_images(vae, flips.flatten(0, 1)).unflatten(0, (len(pixels), 2))

        return encode

    return fill(frozen.image_store, sizes, read_image, make_encode, accelerator, frozen.num_workers)


class CachedClips(PairedClips):
    """PairedClips whose items hold features in place of files: source_embeds (M, D), moments (2C, h, w).

    audio_entries, image_entries: what `FeatureStore.entry` gave for each pair.
    """

    def __init__(self, pairs, sizes, draws, audio_entries, image_entries, latent_scale=8):
        super().__init__(pairs, sizes, draws, None, latent_scale)
        self.audio_entries, self.image_entries = audio_entries, image_entries

    def read(self, index, crop, flip):
        return {
            "source_embeds": read_features(self.audio_entries[index], crop),
            "moments": read_features(self.image_entries[index], int(flip)),
        }


def frame_size(path, sizes):
    """The training size of a frame, or a message where it cannot be opened."""
    try:
        return nearest_bucket(*image_size(path), sizes)
    except PairError as error:
        return str(error)


def training_pairs(data_dir, dataset_name, data_set, captions, sizes, known_size):
    """([Pair], {frame: size}, {kind: [what was left out]}); known_size(path): from the cache, or None."""
    pairs, problems = find_pairs(data_dir, dataset_name, data_set)
    if captions is not None:
        missing = sorted({pair.clip_id for pair in pairs if not captions.get(pair.clip_id)})
        pairs = [pair for pair in pairs if captions.get(pair.clip_id)]
        if missing:
            problems["recordings without a caption"] = missing
        if not pairs:
            raise PairError(f"--captions: none of the {len(missing)} recordings has a caption, e.g. {missing[0]}")
    frame_sizes = {pair.image: known_size(pair.image) for pair in pairs}
    unknown = [path for path, size in frame_sizes.items() if size is None]
    size_of = functools.partial(frame_size, sizes=sizes)
    found = thread_map(size_of, unknown, max_workers=8, desc="frame sizes", disable=len(unknown) < 500)
    frame_sizes |= dict(zip(unknown, found, strict=True))
    broken = [message for message in found if isinstance(message, str)]
    if broken:
        problems["frames that cannot be read"] = broken
    pairs = [pair for pair in pairs if not isinstance(frame_sizes[pair.image], str)]
    return pairs, {pair.image: frame_sizes[pair.image] for pair in pairs}, problems


def from_main(accelerator, function):
    """What function() returns in the main process, in all of them, so that they agree; its errors too."""
    result = [None]
    if accelerator.is_main_process:
        try:
            result = [function()]
        except (PairError, AudioError, OSError) as error:
            result = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def make_dataset(frozen, accelerator, dataset_name, data_set, draws, latent_scale, captions=None):
    """The training set, (dataset, {kind: [what was left out]}), with its features cached if frozen has a cache_dir.

    captions: {id: caption}; recordings without one are then left out.
    """
    known_size = frozen.image_store.group if frozen.cache_dir else lambda path: None
    pairs, sizes, problems = from_main(
        accelerator,
        lambda: training_pairs(frozen.data_dir, dataset_name, data_set, captions, frozen.sizes, known_size),
    )
    if not frozen.cache_dir:
        sizes = [sizes[pair.image] for pair in pairs]
        return PairedClips(pairs, sizes, draws, frozen.num_samples, latent_scale), problems

    unread = {
        "recordings that cannot be read": audio_features(frozen, [pair.audio for pair in pairs], accelerator),
        "frames that cannot be decoded": image_features(frozen, sizes, accelerator),
    }
    frozen.release()
    problems |= {kind: messages for kind, messages in unread.items() if messages}
    audio, image = frozen.audio_store.entry, frozen.image_store.entry
    found = from_main(accelerator, lambda: [(pair, audio(pair.audio), image(pair.image)) for pair in pairs])
    found = [entries for entries in found if None not in entries]
    if not found:
        raise PairError(f"{frozen.data_dir}: no pair could be read; {'; '.join(describe(problems))}")
    pairs, audio_entries, image_entries = zip(*found, strict=True)
    sizes = [sizes[pair.image] for pair in pairs]
    return CachedClips(pairs, sizes, draws, audio_entries, image_entries, latent_scale), problems
