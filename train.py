"""Stage two: teaches Stable Diffusion to draw what is heard (paper, stage 2). Run by train.sh.

Trains the projector and the audio keys and values of every cross-attention; all else is frozen. Writes
OUTPUT_DIR/adapter, which inference.sh takes as PT_PATH, and on the way checkpoints, metrics.jsonl and figures.
"""

import argparse
import functools
import json
import math
import sys
from pathlib import Path

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType, set_seed
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    UNet2DConditionModel,
)
from diffusers.training_utils import EMAModel
from diffusers.utils import logging as diffusers_logging
from torch import nn
from torch.utils.data import DataLoader
from transformers.utils import logging as transformers_logging

from macs.adapter import AudioAdapter
from macs.data.buckets import BUCKETS, BucketBatchSampler, bucket_sizes
from macs.data.labels import read_captions
from macs.data.pairs import DATASETS, Draws, PairError, collate, describe
from macs.loading import local_folder, open_trained
from macs.released import CheckpointError, export_released
from macs.training.denoiser import Denoiser, attention_kernel, denoising_losses, sources_heard
from macs.training.feature_store import CacheError
from macs.training.frozen_features import FrozenModels, embed_sources, encode_images, make_dataset
from macs.training.label_warmup import warm_up_by_labels
from macs.training.loop import (
    Position,
    TrainingError,
    add_training_arguments,
    epoch_batches,
    log_figure,
    log_metrics,
    make_accelerator,
    make_schedule,
    replace_folder,
    resume,
    save_checkpoint,
)
from macs.training.validation_pictures import Validation


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sd_path", default="asset/macs-tiny", help="Stable Diffusion 1.4 or a MACS pipeline")
    parser.add_argument(
        "--pt_path", default="", help="with Stable Diffusion: where separator_FSD50K_full.pt is (folder or hub id)"
    )
    parser.add_argument("--separator", default="", help="a separator trained by train_separator.sh, in place of theirs")
    parser.add_argument("--adapter", default="", help="adapter folder to start from; a new one if not given")
    parser.add_argument("--data_dir", required=True, help="holds <dataset_name>/<data_set>/{audio,image}")
    parser.add_argument("--dataset_name", default="LLP", help="LLP, AudioSet, Landscape or a folder of yours")
    parser.add_argument("--data_set", default="train", help="the part of the set to train on")
    parser.add_argument("--cache_dir", default="", help="keeps what the frozen models compute; without: every time")
    parser.add_argument("--num_crops", type=int, default=4, help="crops of 8 s, evenly spread over each recording")
    parser.add_argument("--resolution", type=int, help="base of the buckets, in pixels; default: the generator's")
    parser.add_argument("--M", type=int, default=6, help="number of separated signals; must be the separator's")
    parser.add_argument(
        "--trainable", choices=["adapter", "unet"], default="adapter", help="unet: the whole UNet and the adapter"
    )
    parser.add_argument("--drop_rate", type=float, default=0.1, help="share of samples without sound, for guidance")
    parser.add_argument(
        "--source_dropout", type=float, default=0.0, help="share of the optimizer steps that hear the first k sources "
        "alone, k at random; the adapter then also draws from few of them",
    )  # fmt: skip
    parser.add_argument("--clip_grad", type=float, default=1.0, help="largest gradient value (norm under FSDP)")
    parser.add_argument("--snr_gamma", type=float, help="min-SNR weights of the timesteps, e.g. 5; default: all equal")
    parser.add_argument(
        "--captions", default="", help="csv (filename, caption) of the recordings, or their label file: the target is "
        "what the generator itself predicts for the caption, in place of the noise; wants fewer images",
    )  # fmt: skip
    parser.add_argument(
        "--labels", default="", help="label file of the recordings: the projector first learns to tell them apart, "
        "without the UNet, in a minute; needs --cache_dir",
    )  # fmt: skip
    parser.add_argument("--gradient_checkpointing", action="store_true", help="less memory, about a third slower")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of a running mean of the weights, e.g. 0.9999")
    parser.add_argument("--validation_steps", type=int, default=500, help="optimizer steps between figures; 0: none")
    parser.add_argument("--validation_clips", type=int, default=4, help="clips in a figure, always the same")
    parser.add_argument("--validation_set", default="test", help="part of the set they come from, if it is there")
    parser.add_argument("--export_released", action="store_true", help="also write <DATASET>_mlp.pt and _unet.pt")
    add_training_arguments(parser, epochs=15, lr=1e-4, batch_size=2, gradient_accumulation_steps=8)
    return parser.parse_args(arguments)


def make_model(args, embedding_dim, frozen_dtype):
    """A Denoiser with a new adapter, or with the one --adapter names; what is trained stays in float32."""
    unet = UNet2DConditionModel.from_pretrained(args.sd_path, subfolder="unet", torch_dtype=torch.float32)
    if args.adapter:
        adapter = AudioAdapter.from_pretrained(args.adapter, torch_dtype=torch.float32)
        found = adapter.config.num_sources, adapter.config.embedding_dim
        if found != (args.M, embedding_dim):
            raise CheckpointError(
                f"{args.adapter}: made for M = {found[0]} and embeddings of {found[1]} numbers, expected M = {args.M} "
                f"and {embedding_dim}"
            )
    else:
        settings = Path(args.sd_path) / "adapter" / "config.json"
        settings = json.loads(settings.read_text()) if settings.is_file() else {}  # a MACS pipeline's own projector
        sizes = {name: settings[name] for name in ("hidden_dim", "dropout") if name in settings}
        set_seed(args.seed)  # the same start in every process
        adapter = AudioAdapter.from_unet(unet, args.M, embedding_dim, **sizes)
    if args.trainable == "adapter":
        nn.Module.to(unet, frozen_dtype)  # diffusers' own warns without a reason
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return Denoiser(unet, adapter, args.trainable), unet, adapter


def add_features(batch, frozen, captions=None):
    """Adds source_embeds and moments to a batch of waveforms and pixels, as the cache would hold them.

    captions: of the dataset's pairs, a list of str; adds caption_embeds.
    """
    if captions:
        batch["caption_embeds"] = frozen.encode_prompts([captions[index] for index in batch["index"].tolist()])
    if "moments" not in batch:
        separator, clap = frozen.audio
        heard = ~batch["dropped"]  # the embeddings of the others become zeros anyway
        embeddings = torch.zeros(
            len(heard), separator.config.num_sources, clap.config.projection_dim, device=heard.device
        )
        if heard.any():
            embeddings[heard] = embed_sources(separator, clap, batch["waveform"][heard]).float()
        batch["source_embeds"] = embeddings
        batch["moments"] = encode_images(frozen.vae, batch["pixels"])
    return batch


def draw_validation(args, accelerator, validation, frozen, unet, adapter, noise_scheduler, prompt_embeds, step):
    """OUTPUT_DIR/figures/step_<n>.png: the fixed clips, their frames and their images now."""
    adapter.eval()
    with accelerator.autocast():  # in every process: where the UNet is sharded they must all take part
        images = validation.images(frozen.vae, unet, noise_scheduler, prompt_embeds, args.seed)
    adapter.train()
    if accelerator.is_main_process:
        figure = validation.figure(images, f"after {step} steps")
        path = Path(args.output_dir) / "figures" / f"step_{step:06d}.png"
        log_figure(accelerator, "validation", figure, path, step)


def save_result(args, accelerator, model, adapter):
    """Writes OUTPUT_DIR/adapter in half precision; with --trainable unet the whole OUTPUT_DIR/pipeline too."""
    state_dict = accelerator.get_state_dict(model)  # gathered where it is sharded
    if not accelerator.is_main_process:
        return
    unet = UNet2DConditionModel.from_pretrained(args.sd_path, subfolder="unet", torch_dtype=torch.float32)
    config = adapter.config
    adapter = AudioAdapter.from_unet(unet, config.num_sources, config.embedding_dim, config.hidden_dim, config.dropout)
    Denoiser(unet, adapter, args.trainable).load_state_dict(state_dict)
    output_dir = Path(args.output_dir)
    try:
        if args.export_released:
            export_released(unet, adapter, output_dir, args.dataset_name)
            print(f"In the authors' format: {output_dir}/{args.dataset_name}_mlp.pt and _unet.pt")
        partial, target = output_dir / "adapter.partial", output_dir / "adapter"
        adapter.half().save_pretrained(partial)
        origin = {"sd_path": args.sd_path, "pt_path": args.pt_path, "separator": args.separator}
        (partial / "trained_with.json").write_text(json.dumps(origin, indent=2))
        replace_folder(partial, target)
        print(f"Trained adapter: {target}. Hear it: SD_PATH={args.sd_path} PT_PATH={target} bash inference.sh")
        if args.trainable == "unet":
            partial, target = output_dir / "pipeline.partial", output_dir / "pipeline"
            pipe = open_trained(args.sd_path, output_dir / "adapter", args.M, torch.float16)
            with adapter.detached(unet), pipe.adapter.detached(pipe.unet):
                pipe.unet.load_state_dict(unet.state_dict())
            pipe.save_pretrained(partial)
            replace_folder(partial, target)
            print(f"Trained pipeline: {target}. Hear it: SD_PATH={target} bash inference.sh")
    except OSError as error:
        raise TrainingError(
            f"{output_dir}: the result could not be written ({error}); make room and call again with --resume latest"
        ) from error


def train(args):
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    accelerator = make_accelerator(args)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("--mixed_precision fp16 needs a GPU; on a CPU use no or bf16")
    if args.labels and not args.cache_dir:
        raise TrainingError("--labels needs --cache_dir: the warm-up passes over all embeddings many times")
    if args.labels and args.adapter:
        raise TrainingError("--labels is where a new adapter begins; leave it out to go on with --adapter")
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    with accelerator.main_process_first():
        args.sd_path = local_folder(args.sd_path)

    # Noise schedule, latents and training sizes of this Stable Diffusion
    noise_scheduler = DDPMScheduler.from_pretrained(args.sd_path, subfolder="scheduler")
    vae_config = AutoencoderKL.load_config(args.sd_path, subfolder="vae")
    unet_config = UNet2DConditionModel.load_config(args.sd_path, subfolder="unet")
    latent_scale = 2 ** (len(vae_config["block_out_channels"]) - 1)
    resolution = args.resolution or unet_config["sample_size"] * latent_scale
    sizes = bucket_sizes(DATASETS.get(args.dataset_name, BUCKETS), resolution, latent_scale)

    # Pairs, and what the frozen models make of them
    frozen = FrozenModels(args, accelerator.device, sizes)
    draws = Draws(
        args.seed, args.num_crops, args.drop_rate, vae_config["latent_channels"],
        noise_scheduler.config.num_train_timesteps,
    )  # fmt: skip
    try:
        captions = read_captions(args.captions) if args.captions else None
    except (OSError, ValueError) as error:
        raise TrainingError(str(error)) from error
    dataset, problems = make_dataset(args, accelerator, frozen, draws, latent_scale, captions)
    captions = captions and [captions[pair.clip_id] for pair in dataset.pairs]
    prompt_embeds = frozen.prompt_embeds().to(accelerator.device)
    if not captions:
        frozen.release("text")
    validation = Validation(args, accelerator, frozen) if args.validation_steps else None
    if args.cache_dir:
        frozen.release()
    sampler = BucketBatchSampler(
        dataset.sizes, args.batch_size, args.seed, accelerator.num_processes, accelerator.process_index
    )
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=args.num_workers, collate_fn=collate,
        pin_memory=accelerator.device.type == "cuda", generator=torch.Generator(),
        persistent_workers=args.num_workers > 0,
    )  # fmt: skip
    # the sampler has shared the batches out already
    loader = prepare_data_loader(loader, accelerator.device, num_processes=1, process_index=0, put_on_device=True)
    for line in describe(problems):
        accelerator.print(line)
    counts = {f"{h}x{w}": dataset.sizes.count((h, w)) for h, w in sizes}
    shown = ", ".join(f"{count} of {size}" for size, count in counts.items() if count)
    accelerator.print(f"{len(dataset)} frames to train on: {shown}; {len(loader)} batches in an epoch")

    # Models: only what is trained goes to the optimizer
    model, unet, adapter = make_model(args, frozen.embedding_dim, half)
    if args.labels and not args.resume:
        warm_up_by_labels(args, accelerator, adapter.projector, dataset)
    set_seed(args.seed, device_specific=True)  # dropout
    unet.to(accelerator.device)
    teacher = None
    if captions:  # a copy: the UNet in training has the adapter in it, or changes itself
        teacher = UNet2DConditionModel.from_pretrained(args.sd_path, subfolder="unet", torch_dtype=half)
        teacher.requires_grad_(False).to(accelerator.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule, position = make_schedule(args, optimizer, len(loader)), Position()
    accelerator.register_for_checkpointing(schedule, position)
    ema = EMAModel(trained, decay=args.ema) if args.ema else None
    if ema:
        accelerator.register_for_checkpointing(ema)
    accelerator.print(f"{sum(p.numel() for p in trained) / 1e6:.1f} M parameters are trained ({args.trainable})")

    names = ["dataset_name", "M", "trainable", "num_crops", "drop_rate", "ema", "epochs", "lr", "batch_size"]
    names += ["gradient_accumulation_steps", "scheduler", "seed", "clip_grad", "snr_gamma"]
    settings = {name: getattr(args, name) for name in names}
    settings |= {name: getattr(args, name) or None for name in ("captions", "labels", "source_dropout")}
    settings |= {"frames": len(dataset), "sizes": counts, "processes": accelerator.num_processes}
    settings |= {"mixed_precision": accelerator.mixed_precision}
    if args.resume:
        resume(accelerator, args.output_dir, args.resume, settings)

    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    draw = functools.partial(
        draw_validation, args, accelerator, validation, frozen, unet, adapter, noise_scheduler, prompt_embeds
    )
    skipped, broken_steps = set(), 0
    while position.epoch < args.epochs:
        # An optimizer step takes so many images, of all processes and micro-batches; each counts the same
        sampler.set_epoch(position.epoch)
        step_sizes = sampler.step_sizes(args.gradient_accumulation_steps)
        step_loss, epoch_losses = 0.0, []
        for batch, bar in epoch_batches(accelerator, loader, position, args.epochs):
            images = step_sizes[(position.batch - 1) // args.gradient_accumulation_steps]
            with accelerator.accumulate(model), attention_kernel(batch["noise"]):
                batch = add_features(batch, frozen, captions)
                heard = sources_heard(args.M, args.source_dropout, args.seed, position.step)
                batch["source_embeds"] = batch["source_embeds"][:, :heard]
                losses = denoising_losses(
                    model, noise_scheduler, batch, prompt_embeds, vae_config["scaling_factor"], half, args.snr_gamma,
                    teacher,
                )  # fmt: skip
                loss = losses.sum() / images
                # accelerate divides by the micro-batches and the processes
                accelerator.backward(loss * args.gradient_accumulation_steps * accelerator.num_processes)
                if accelerator.sync_gradients and sharded:
                    accelerator.clip_grad_norm_(model.parameters(), args.clip_grad)
                elif accelerator.sync_gradients:
                    accelerator.clip_grad_value_(trained, args.clip_grad)
                optimizer.step()
                optimizer.zero_grad()
            step_loss = step_loss + loss.detach()
            for message in set(batch["skipped"]) - skipped:
                bar.write(f"left out: {message}")
            skipped.update(batch["skipped"])
            if not accelerator.sync_gradients:
                continue

            # An optimizer step is done
            if not accelerator.optimizer_step_was_skipped:
                schedule.step()
            if ema:
                ema.step(trained)
            position.step += 1
            step_loss = accelerator.reduce(step_loss, "sum").item()
            broken_steps = 0 if math.isfinite(step_loss) else broken_steps + 1
            if broken_steps > (20 if accelerator.mixed_precision == "fp16" else 0):  # fp16 skips some by design
                raise TrainingError(
                    f"the loss is {step_loss} in step {position.step}: go on from the last checkpoint "
                    "(--resume latest) with a lower --lr, or train in bf16"
                )
            bar.set_postfix(loss=f"{step_loss:.4f}", lr=f"{schedule.get_last_lr()[0]:.1e}")
            accelerator.log({"train/loss": step_loss, "train/lr": schedule.get_last_lr()[0]}, step=position.step)
            epoch_losses.append(step_loss)
            step_loss = 0.0
            if validation and position.step % args.validation_steps == 0:
                if ema:
                    ema.store(trained)
                    ema.copy_to(trained)
                draw(position.step)
                if ema:
                    ema.restore(trained)
            if position.step % args.checkpointing_steps == 0 and position.batch < len(loader):
                save_checkpoint(accelerator, args.output_dir, position, settings, args.checkpoints_kept)
        position.epoch, position.batch = position.epoch + 1, 0
        mean = sum(epoch_losses) / max(1, len(epoch_losses))
        log_metrics(accelerator, args.output_dir, {"epoch": position.epoch, "train/epoch_loss": mean}, position.step)
        accelerator.print(f"epoch {position.epoch}: mean loss {mean:.4f}")
        save_checkpoint(accelerator, args.output_dir, position, settings, args.checkpoints_kept)

    # The result, and what was left out
    if ema:
        ema.copy_to(trained)
    if validation and position.step % args.validation_steps:
        draw(position.step)
    save_result(args, accelerator, model, adapter)
    if skipped:
        problems["files that could not be read on the way"] = sorted(skipped)
    for line in describe(problems):
        accelerator.print(line)
    # DDP goes before the process group: as its last owner it would hold Python's lock while it waits for gloo's
    # threads, which may wait for that lock (pytorch issue 56297): a process that never ends
    del model
    accelerator.free_memory()
    accelerator.end_training()


def main():
    try:
        train(parse_args())
    except (TrainingError, CheckpointError, CacheError, PairError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
