"""Images per second and peak memory of stage two: with the feature cache, without it, and in the published order.

The published order computes separator and CLAP clip by clip, VAE and text encoder in every step, two images at a time,
eight times for a step, in float32 whatever the --dtype of ours. Ours takes the same 16 images to a step, in the
micro-batch that is fastest with the cache. Random weights; recordings of 8 s and frames are read from files, by the
training's own datasets. TFLOP/s are those of the step with the cache, forward and backward, over the whole time.
"""

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from PIL import Image

from benchmarks.pipeline import random_pipeline
from benchmarks.timing import DEVICE, device_name, interleaved, operations, peak_memory, peak_operations
from macs.data.pairs import Draws, PairedClips, collate, find_pairs
from macs.training.denoiser import Denoiser, attention_kernel, denoising_losses
from macs.training.feature_store import FeatureStore
from macs.training.frozen_features import CachedClips, FrozenModels, audio_features, image_features
from soundscapes.make_tiny import SCHEDULE

IMAGES = 16  # in an optimizer step


def add_arguments(parser):
    parser.add_argument("--size", choices=["tiny", "sd14"], default="tiny", help="random weights of this architecture")
    parser.add_argument("--resolution", type=int, default=None, help="pixels of a side; the model's own if not given")
    parser.add_argument("--micro_batches", type=int, nargs="+", default=[2, 4, 8, 16], help="ours is the fastest one")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default=DEVICE)


def write_set(folder, resolution):
    """Sixteen recordings of noise and frames of noise."""
    rng = np.random.default_rng(0)
    for part in ("audio", "image"):
        (folder / "Noise" / "train" / part).mkdir(parents=True)
    for i in range(IMAGES):
        soundfile.write(folder / "Noise/train/audio" / f"{i}.wav", 0.1 * rng.standard_normal(128000), 16000)
        pixels = rng.integers(0, 255, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "Noise/train/image" / f"{i}_frame_0.jpg")
    return find_pairs(folder, "Noise")[0]


def training(unet, adapter, args):
    """(model, optimizer) of stage two."""
    model = Denoiser(unet, adapter)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


def run(args):
    dtype = getattr(torch, args.dtype)
    pipe = random_pipeline(args.size, args.device, torch.float32)
    pipe.adapter.detach(pipe.unet)
    pipe.vae.register_to_config(force_upcast=False)  # as FrozenModels opens it
    published = (*training(copy.deepcopy(pipe.unet), copy.deepcopy(pipe.adapter), args), torch.float32)
    torch.nn.Module.to(pipe.unet, dtype)
    ours = (*training(pipe.unet, pipe.adapter, args), dtype)
    noise_scheduler = DDPMScheduler(**SCHEDULE)
    resolution = args.resolution or pipe.unet.config.sample_size * 8
    sizes = [(resolution, resolution)] * IMAGES
    prompt_embeds = pipe.encode_prompt("", args.device, 1, False)[0].detach()
    for part in (pipe.vae, pipe.text_encoder, pipe.separator, pipe.clap):
        part.eval().requires_grad_(False)

    with tempfile.TemporaryDirectory() as folder:
        pairs = write_set(Path(folder), resolution)
        draws = Draws(latent_channels=pipe.vae.config.latent_channels)
        frozen = SimpleNamespace(
            num_crops=4,
            num_workers=0,
            num_sources=pipe.num_sources,
            num_samples=pipe.separator.config.num_samples,
            audio=(copy.deepcopy(pipe.separator).to(memory_format=torch.channels_last), pipe.clap),
            vae=pipe.vae,
            audio_store=FeatureStore(f"{folder}/cache", folder, "audio", {}, []),
            image_store=FeatureStore(f"{folder}/cache", folder, "image", {}, []),
        )
        accelerator = Accelerator(cpu=args.device == "cpu")
        audio_features(frozen, [pair.audio for pair in pairs], accelerator)
        image_features(frozen, {pair.image: sizes[0] for pair in pairs}, accelerator)
        entries = [(frozen.audio_store.entry(p.audio), frozen.image_store.entry(p.image)) for p in pairs]
        plain = PairedClips(pairs, sizes, draws, frozen.num_samples)
        cached = CachedClips(pairs, sizes, draws, *zip(*entries, strict=True))
        epoch = 0

        def step(dataset, micro_batch, prepare, trained=ours, prompt=lambda count: prompt_embeds):
            nonlocal epoch
            epoch += 1
            model, optimizer, dtype = trained
            for start in range(0, IMAGES, micro_batch):
                batch = collate([dataset[epoch, i] for i in range(start, start + micro_batch)])
                batch = {k: v.to(args.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
                with attention_kernel(batch["noise"]):
                    with torch.autocast(torch.device(args.device).type, dtype, enabled=dtype != torch.float32):
                        batch, embeds = prepare(batch), prompt(micro_batch)
                        losses = denoising_losses(model, noise_scheduler, batch, embeds, 0.18215, dtype)
                    (losses.sum() / IMAGES).backward()
            optimizer.step()
            optimizer.zero_grad()

        @torch.no_grad()
        def published_features(batch):
            embeddings = [pipe.clap.encode_audio(pipe.separator(clip[None])[0]) for clip in batch.pop("waveform")]
            batch["source_embeds"] = torch.stack(embeddings)
            batch["moments"] = pipe.vae.encode(batch.pop("pixels")).latent_dist.parameters.float()
            return batch

        @torch.no_grad()
        def published_prompt(count):
            tokens = pipe.tokenizer([""] * count, padding="max_length", max_length=77, return_tensors="pt").input_ids
            return pipe.text_encoder(tokens.to(args.device))[0]

        def complete(batch):
            return FrozenModels.complete(frozen, batch)

        candidates = {size: lambda size=size: step(cached, size, complete) for size in args.micro_batches}
        seconds = interleaved(candidates, 1, args.device)
        fastest = min(seconds, key=seconds.get)
        orders = {
            "published order": lambda: step(plain, 2, published_features, published, published_prompt),
            "without the cache": lambda: step(plain, fastest, complete),
            "with the cache": lambda: step(cached, fastest, complete),
        }
        seconds = interleaved(orders, args.repeats, args.device)
        memory = {name: peak_memory(order, args.device) for name, order in orders.items()}
        done = operations(lambda: step(cached, fastest, complete))
    peak = peak_operations(args.device, dtype)
    print(f"{device_name(args.device)}, {args.dtype}: {peak / 1e12:.3f} TFLOP/s in a product of matrices")
    print(f"{args.size}, {resolution}x{resolution}; ours in micro-batches of {fastest}")
    for name, value in seconds.items():
        ratio = seconds["published order"] / value
        print(f"{name:>18}: {IMAGES / value:7.2f} images/s, {ratio:5.2f} times, peak {memory[name]:7.0f} MiB")
    rate = done / seconds["with the cache"]
    print(f"{'with the cache':>18}: {rate / 1e12:.3f} TFLOP/s, {rate / peak:.1%} of the peak")
