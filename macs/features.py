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
from transformers import CLIPTextModel, CLIPTokenizer

from macs.audio import CLIP_SAMPLES, SAMPLE_RATE, AudioError, duration
from macs.cache import FeatureStore, fill, read_features
from macs.checkpoints import audio_model_paths, open_audio_models, weight_files
from macs.data.buckets import nearest_bucket
from macs.data.pairs import PairedClips, PairError, describe, find_pairs, image_size, read_crop, read_image
from macs.separator import Separator

MIXTURES = 8  # separated at a time; CLAP embeds M times as many signals


class FrozenModels:
    """Separator, CLAP, VAE and text encoder, each loaded when it is first needed: with a complete cache, never."""

    def __init__(self, args, device):
        self.args, self.device = args, device
        self.audio_paths = audio_model_paths(args.sd_path, args.pt_path, args.separator)

    @functools.cached_property
    def audio(self):
        separator, clap = open_audio_models(*self.audio_paths, self.args.M)
        return separator.requires_grad_(False).to(self.device), clap.requires_grad_(False).to(self.device)

    @functools.cached_property
    def vae(self):
        vae = AutoencoderKL.from_pretrained(self.args.sd_path, subfolder="vae", torch_dtype=torch.float32)
        return vae.requires_grad_(False).to(self.device)

    @torch.no_grad()
    def prompt_embeds(self):
        """The text embedding of the empty prompt, (1, 77, D)."""
        tokenizer = CLIPTokenizer.from_pretrained(self.args.sd_path, subfolder="tokenizer")
        text_encoder = CLIPTextModel.from_pretrained(self.args.sd_path, subfolder="text_encoder", dtype=torch.float32)
        tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        return text_encoder(tokens.input_ids)[0]

    def files(self, part):
        """The files that a part's outputs depend on."""
        if part == "audio":
            return [file for path in self.audio_paths for file in weight_files(path)]
        folders = {"image": ["vae"], "text": ["text_encoder", "tokenizer"]}[part]
        return [file for folder in folders for file in weight_files(Path(self.args.sd_path) / folder)]

    def num_samples(self):
        """Length of the separator's mixtures at 16 kHz."""
        path = self.audio_paths[0]
        return Separator.load_config(path)["num_samples"] if path.is_dir() else CLIP_SAMPLES


def read_crops(path, num_crops, num_samples):
    """The distinct crops of a recording, (k, num_samples) at 16 kHz: num_crops, or one where it is not longer."""
    distinct = num_crops if duration(path) > num_samples / SAMPLE_RATE else 1
    return torch.stack([read_crop(path, crop, num_crops, num_samples) for crop in range(distinct)])


@torch.no_grad()
def embed_sources(separator, clap, mixtures):
    """Mixtures (B, T) at 16 kHz -> source embeddings (B, M, D), unit norm; CLAP sees all signals of a batch at once."""
    embeddings = []
    for batch in mixtures.split(MIXTURES):
        sources = separator(batch.to(separator.device))
        embeddings.append(clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2]))
    return torch.cat(embeddings)


@torch.no_grad()
def encode_images(vae, pixels):
    """(B, 3, H, W) in [-1, 1] -> moments of the latents (B, 2C, h, w): mean and log-variance."""
    with torch.autocast(vae.device.type, torch.float16, enabled=vae.device.type == "cuda"):
        return vae.encode(pixels.to(vae.device)).latent_dist.parameters.float()


def audio_features(store, paths, num_crops, num_samples, load_models, accelerator, num_workers=0):
    """Fills an audio store with (num_crops, M, D) for each recording. load_models() -> separator, clap. See `fill`."""

    def read(path, _):
        return read_crops(path, num_crops, num_samples)

    def make_encode():
        separator, clap = load_models()

        def encode(crops):
            per_clip = embed_sources(separator, clap, torch.cat(crops)).split([len(clip) for clip in crops])
            return torch.stack([embeddings.expand(num_crops, -1, -1) for embeddings in per_clip])

        return encode

    return fill(store, dict.fromkeys(paths), read, make_encode, accelerator, num_workers)


def image_features(store, sizes, load_vae, accelerator, num_workers=0):
    """Fills an image store with (2, 2C, h, w) for each frame and its mirror image. sizes: {path: (height, width)}."""

    def make_encode():
        vae = load_vae()

        def encode(pixels):
            flips = torch.stack([torch.stack(pixels), torch.stack(pixels).flip(-1)], dim=1)
            return encode_images(vae, flips.flatten(0, 1)).unflatten(0, (len(pixels), 2))

        return encode

    return fill(store, sizes, read_image, make_encode, accelerator, num_workers)


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


def training_pairs(args, sizes, known_size):
    """([Pair], {frame: size}, {kind: [what was left out]}); known_size(path): from the cache, or None."""
    pairs, problems = find_pairs(args.data_dir, args.dataset_name, args.data_set)
    frame_sizes = {pair.image: known_size(pair.image) for pair in pairs}
    unknown = [path for path, size in frame_sizes.items() if size is None]
    found = thread_map(
        functools.partial(frame_size, sizes=sizes), unknown, desc="frame sizes", max_workers=8, disable=len(unknown) < 500
    )
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


def make_dataset(args, accelerator, frozen, draws, sizes, latent_scale):
    """The training set, (dataset, {kind: [what was left out]}), with its features cached if --cache_dir is given."""
    if not args.cache_dir:
        pairs, frame_sizes, problems = from_main(accelerator, lambda: training_pairs(args, sizes, lambda path: None))
        dataset = PairedClips(pairs, [frame_sizes[p.image] for p in pairs], draws, frozen.num_samples(), latent_scale)
        return dataset, problems

    audio_store, image_store = make_stores(args, frozen, sizes)
    pairs, frame_sizes, problems = from_main(accelerator, lambda: training_pairs(args, sizes, image_store.group))
    recordings = dict.fromkeys(pair.audio for pair in pairs)
    unread = {
        "recordings that cannot be read": audio_features(
            audio_store, recordings, args.num_crops, frozen.num_samples(), lambda: frozen.audio, accelerator,
            args.num_workers,
        ),
        "frames that cannot be decoded": image_features(
            image_store, frame_sizes, lambda: frozen.vae, accelerator, args.num_workers
        ),
    }  # fmt: skip
    problems |= {kind: messages for kind, messages in unread.items() if messages}
    entries = from_main(
        accelerator, lambda: [(audio_store.entry(pair.audio), image_store.entry(pair.image)) for pair in pairs]
    )
    kept = [(pair, *entry) for pair, entry in zip(pairs, entries, strict=True) if None not in entry]
    if not kept:
        raise PairError(f"{args.data_dir}: nothing could be read: {'; '.join(describe(problems))}")
    pairs, audio_entries, image_entries = zip(*kept, strict=True)
    sizes_of_pairs = [frame_sizes[pair.image] for pair in pairs]
    return CachedClips(pairs, sizes_of_pairs, draws, audio_entries, image_entries, latent_scale), problems


def make_stores(args, frozen, sizes):
    """The audio and the image features' places in --cache_dir."""
    settings = {"num_crops": args.num_crops, "num_samples": frozen.num_samples()}
    return (
        FeatureStore(args.cache_dir, args.data_dir, "audio", settings, frozen.files("audio")),
        FeatureStore(args.cache_dir, args.data_dir, "image", {"sizes": sizes}, frozen.files("image")),
    )
