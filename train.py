"""Stage two: teaches Stable Diffusion to draw what is heard (paper, stage 2). Run by train.sh.

Trains the projector and the audio keys and values of every cross-attention; all else is frozen. Writes
OUTPUT_DIR/adapter, which inference.sh takes as PT_PATH, and on the way checkpoints, metrics.jsonl and figures.
"""

import argparse
import functools
import sys
from pathlib import Path

from macs.options import add_public_options, integer, number
from macs.script import importing, run
from macs.training.options import NOT_COMPARED as NOT_COMPARED_EITHER
from macs.training.options import add_training_arguments

# What a resumed run may change: where things lie (weights are compared by their contents), and what is shown
NOT_COMPARED = NOT_COMPARED_EITHER | {
    "sd_path", "pt_path", "data_dir", "cache_dir", "gradient_checkpointing", "export_released",
    "validation_steps", "validation_clips", "validation_set",
}  # fmt: skip


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--sd_path", default="asset/macs-tiny", help="Stable Diffusion (1.x, 2.x, XL) or a MACS pipeline")
    add("--pt_path", default="", help="with Stable Diffusion: where separator_FSD50K_full.pt is (folder or hub id)")
    add("--separator", default="", help="a separator trained by train_separator.sh, in place of theirs")
    add("--adapter", default="", help="adapter folder to start from; a new one if not given")
    add("--data_dir", required=True, help="holds <dataset_name>/<data_set>/{audio,image}")
    add("--dataset_name", default="LLP", help="LLP, AudioSet, Landscape or a folder of yours")
    add("--data_set", default="train", help="the part of the set to train on")
    add("--cache_dir", default="", help="keeps what the frozen models compute; without: every time")
    add("--num_crops", type=integer(1), default=4, help="crops of 8 s, evenly spread over each recording")
    add("--resolution", type=integer(8), help="base of the buckets, in pixels; default: the generator's")
    add("--M", type=integer(1), help="number of sources; default: the separator's; 1: no separation")
    add("--trainable", choices=["adapter", "unet"], default="adapter", help="unet: the whole UNet and the adapter")
    add("--drop_rate", type=number(0, 1), default=0.1, help="share of samples without sound, for guidance")
    add("--clip_grad", type=number(0), default=1.0, help="largest gradient value (norm under FSDP)")
    add("--gradient_checkpointing", action="store_true", help="less memory, a third more time")
    add("--validation_steps", type=integer(0), default=500, help="optimizer steps between figures; 0: none")
    add("--validation_clips", type=integer(1), default=4, help="clips in a figure, always the same")
    add("--validation_set", default="test", help="part of the set they come from, if it is there")
    add("--export_released", action="store_true", help="also write <DATASET>_mlp.pt and _unet.pt")
    add_training_arguments(parser, epochs=15, lr=1e-4, batch_size=2, gradient_accumulation_steps=8)
    ours = parser.add_argument_group("additions to the paper, off by default")
    add = ours.add_argument
    captions = "csv (filename, caption) or label file: learn what the generator predicts for the caption, in place of "
    add("--captions", default="", help=captions + "the noise; wants fewer images")
    add("--labels", default="", help="label file from which a new projector learns first; needs --cache_dir")
    dropout = "share of the optimizer steps that hear the first k sources alone, k at random; the adapter then also "
    add("--source_dropout", type=number(0, 1), default=0.0, help=dropout + "draws from few of them")
    add("--snr_gamma", type=number(0), help="min-SNR weights of the timesteps, e.g. 5; default: all equal")
    add("--ema", type=number(0, 1), default=0.0, help="decay of a running average of the weights, which is the result")
    add_public_options(parser, {
        "--cfg": (("", "true"), "--drop_rate is the share of samples without sound, which guidance needs; 0: none"),
        "--prompt": (("",), "the text beside the sound is empty in training; --captions learns from texts"),
        "--negative_prompt": (("",), "nothing is drawn by it in training"),
        "--input_length": (("8",), "the length is the separator's, see --clip_seconds of train_separator.py"),
        "--sr": (("16000",), "the separator hears 16 kHz; recordings of any rate are resampled"),
        "--training": (("", "true"), "train.py trains, inference.py draws"),
        "--output_size": ((), "--resolution is the base of the buckets, in pixels"),
    })  # fmt: skip
    args = parser.parse_args(arguments)
    if args.labels and not args.cache_dir:
        parser.error("--labels needs --cache_dir: the warm-up passes over all embeddings many times")
    if args.labels and args.adapter:
        parser.error("--labels is where a new adapter begins; leave it out to go on with --adapter")
    return args


if __name__ == "__main__":
    parse_args()  # --help and mistakes end here: what is imported below takes seconds

with importing():
    import torch
    from accelerate.data_loader import prepare_data_loader
    from accelerate.utils import set_seed
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers.utils import logging as transformers_logging

    from macs.data.buckets import BUCKETS, BucketBatchSampler, bucket_sizes
    from macs.data.labels import read_captions
    from macs.data.pairs import DATASETS, Draws, PairError, collate, describe
    from macs.devices import memory_advice, out_of_memory
    from macs.files import fingerprint
    from macs.loading import audio_model_paths, check_adapter, local_folder, separator_config, weight_files
    from macs.released import CheckpointError
    from macs.training.accelerator import TrainingError, clip_gradients, finish, make_accelerator, unlock
    from macs.training.adapters import make_adapter, open_adapter, save_result
    from macs.training.additions import captions_of, open_teacher, sources_heard
    from macs.training.denoiser import Denoiser, attention_kernel, denoising_losses
    from macs.training.feature_store import CacheError
    from macs.training.frozen_features import FrozenModels, make_dataset
    from macs.training.label_warmup import warm_up_by_labels
    from macs.training.loop import Run, compared_settings
    from macs.training.validation_pictures import Validation
    from macs.training.xl import added_conditions


def train(args):
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    accelerator = make_accelerator(
        args.output_dir, mixed_precision=args.mixed_precision, seed=args.seed, report_to=args.report_to,
        gradient_accumulation_steps=args.gradient_accumulation_steps, config=vars(args),
    )  # fmt: skip
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
    with accelerator.main_process_first():
        sd_path = local_folder(args.sd_path)
    audio_paths = audio_model_paths(sd_path, args.pt_path, args.separator)
    num_sources = args.M or separator_config(audio_paths[0])["num_sources"]
    if args.adapter:
        check_adapter(args.adapter, sd_path)

    # Noise schedule, latents and training sizes of this Stable Diffusion
    noise_scheduler = DDPMScheduler.from_pretrained(sd_path, subfolder="scheduler")
    prediction_type = noise_scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise CheckpointError(
            f"{sd_path}/scheduler: expected prediction_type epsilon or v_prediction, but it is {prediction_type}"
        )
    vae_config = AutoencoderKL.load_config(sd_path, subfolder="vae")
    unet_config = UNet2DConditionModel.load_config(sd_path, subfolder="unet")
    latent_scale = 2 ** (len(vae_config["block_out_channels"]) - 1)
    resolution = args.resolution or unet_config["sample_size"] * latent_scale
    sizes = bucket_sizes(DATASETS.get(args.dataset_name, BUCKETS), resolution, latent_scale)

    # Data: each pair's source embeddings and latent moments, as the frozen models make them
    frozen = FrozenModels(
        sd_path, audio_paths, num_sources, sizes, accelerator.device, data_dir=args.data_dir,
        cache_dir=args.cache_dir, num_crops=args.num_crops, num_workers=args.num_workers,
    )  # fmt: skip
    num_timesteps = noise_scheduler.config.num_train_timesteps
    draws = Draws(args.seed, args.num_crops, args.drop_rate, vae_config["latent_channels"], num_timesteps)
    captions = read_captions(args.captions) if args.captions else None
    if captions and frozen.is_xl:
        raise TrainingError("--captions is not for Stable Diffusion XL; leave it out")
    dataset, problems = make_dataset(
        frozen, accelerator, args.dataset_name, args.data_set, draws, latent_scale, captions
    )
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
    texts = {name: value.to(accelerator.device) for name, value in frozen.prompt_embeds().items()}  # the empty prompt's
    prompt_embeds = texts["prompt_embeds"]
    counts = report(accelerator, dataset, problems, sizes, len(loader))

    # Models: the UNet with the adapter in it
    unet = UNet2DConditionModel.from_pretrained(sd_path, subfolder="unet", torch_dtype=torch.float32)
    if args.adapter:
        adapter = open_adapter(args.adapter, num_sources, frozen.embedding_dim)
    else:
        adapter = make_adapter(unet, sd_path, num_sources, frozen.embedding_dim, args.seed, prediction_type)
    if args.trainable == "adapter":
        nn.Module.to(unet, half)  # frozen; diffusers' own `to` warns without a reason
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    conditions = None
    if frozen.is_xl:
        pooled = texts["pooled_prompt_embeds"]
        conditions = functools.partial(added_conditions, pooled=pooled, latent_scale=latent_scale)
    model = Denoiser(unet, adapter, args.trainable, conditions)

    # Additions: a projector that has learned from labels, the generator itself as teacher, pictures on the way
    if args.labels and not args.resume:
        warm_up_by_labels(args.labels, adapter.projector, dataset, args.seed, accelerator)
    teacher = open_teacher(sd_path, half, accelerator.device) if captions else None
    pictures = None
    if args.validation_steps:
        parts = (args.validation_set, args.data_set)
        pictures = Validation(frozen, accelerator, args.dataset_name, parts, args.validation_clips)
    frozen.release(*() if args.cache_dir else ("text",))  # what is needed once more is loaded again

    # Optimizer: only what is trained goes to it
    set_seed(args.seed, device_specific=True)  # dropout
    unet.to(accelerator.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.print(f"{sum(p.numel() for p in trained) / 1e6:.1f} M parameters are trained ({args.trainable})")
    settings = settings_of(args, accelerator, sd_path, audio_paths, num_sources, dataset, counts)
    run = Run(
        accelerator, args.output_dir, settings, optimizer, trained, epochs=args.epochs, batches_per_epoch=len(loader),
        scheduler=args.scheduler, ema=args.ema, checkpointing_steps=args.checkpointing_steps,
        checkpoints_kept=args.checkpoints_kept,
    )  # fmt: skip
    if args.resume:
        run.resume(args.resume)

    if pictures and run.position.step == 0:
        pictures.draw(run, frozen.vae, unet, adapter, noise_scheduler, texts, args.seed)

    # Training
    accumulation = args.gradient_accumulation_steps
    for epoch in run.epochs_left():
        sampler.set_epoch(epoch)
        step_sizes = sampler.step_sizes(accumulation)  # images of each optimizer step, of all processes
        step_loss, epoch_losses = 0.0, []
        for batch in run.batches(loader):
            with accelerator.accumulate(model), attention_kernel(batch["noise"]):
                batch = frozen.complete(batch)
                if captions:
                    spoken = frozen.encode_prompts(captions_of(batch, dataset, captions))
                    batch["caption_embeds"] = spoken["prompt_embeds"]
                if args.source_dropout:
                    heard = sources_heard(num_sources, args.source_dropout, args.seed, run.position.step)
                    batch["source_embeds"] = batch["source_embeds"][:, :heard]
                losses = denoising_losses(
                    model, noise_scheduler, batch, prompt_embeds, vae_config["scaling_factor"], half, args.snr_gamma,
                    teacher,
                )  # fmt: skip
                # each image of an optimizer step counts the same; accelerate divides by micro-batches and processes
                loss = losses.sum() / step_sizes[(run.position.batch - 1) // accumulation]
                accelerator.backward(loss * accumulation * accelerator.num_processes)
                clip_gradients(accelerator, model, trained, args.clip_grad)
                optimizer.step()
                optimizer.zero_grad()
            step_loss = step_loss + loss.detach()
            if not accelerator.sync_gradients:
                continue
            epoch_losses.append(accelerator.reduce(step_loss, "sum").item())
            step_loss = 0.0
            run.step_done({"loss": epoch_losses[-1]})
            if pictures and run.position.step % args.validation_steps == 0:
                pictures.draw(run, frozen.vae, unet, adapter, noise_scheduler, texts, args.seed)
        mean = sum(epoch_losses) / max(1, len(epoch_losses))
        run.log({"epoch": epoch + 1, "train/epoch_loss": mean})
        accelerator.print(f"epoch {epoch + 1}: mean loss {mean:.4f}")

    # The result, and what was left out
    if run.average:
        run.average.copy_to(trained)
    if pictures and run.position.step % args.validation_steps:
        pictures.draw(run, frozen.vae, unet, adapter, noise_scheduler, texts, args.seed)
    state_dict = accelerator.get_state_dict(model)  # gathered where it is sharded
    if accelerator.is_main_process:
        origin = {"sd_path": args.sd_path, "pt_path": args.pt_path, "separator": args.separator}
        released_name = args.dataset_name if args.export_released else None
        save_result(args.output_dir, sd_path, state_dict, adapter, args.trainable, origin, released_name)
    if run.skipped:
        problems["files that could not be read on the way"] = sorted(run.skipped)
    for line in describe(problems):
        accelerator.print(line)
    del model, run
    finish(accelerator, args.output_dir)


def report(accelerator, dataset, problems, sizes, num_batches):
    """Prints what there is to train on and what was left out; returns {size: number of frames}."""
    for line in describe(problems):
        accelerator.print(line)
    counts = {f"{height}x{width}": dataset.sizes.count((height, width)) for height, width in sizes}
    shown = ", ".join(f"{count} of {size}" for size, count in counts.items() if count)
    accelerator.print(f"{len(dataset)} frames to train on: {shown}; {num_batches} batches in an epoch")
    return counts


def settings_of(args, accelerator, sd_path, audio_paths, num_sources, dataset, counts):
    """What a run that resumes must share: the arguments, the weights' and label files' contents, the pairs."""

    def contents(*paths):
        return fingerprint({}, [file for path in paths for file in weight_files(path)])

    generator = [Path(sd_path) / part for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
    names = [(pair.clip_id, pair.image.name) for pair in dataset.pairs]
    return compared_settings(
        vars(args),
        NOT_COMPARED,
        M=num_sources,
        generator=contents(*generator),
        separator=None if num_sources == 1 else contents(audio_paths[0]),
        clap=contents(audio_paths[1]),
        adapter=args.adapter and contents(args.adapter),
        captions=args.captions and contents(args.captions),
        labels=args.labels and contents(args.labels),
        pairs=fingerprint(names, []),
        frames=len(dataset),
        sizes=counts,
        processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
    )


def memory_needed(args):
    """What to change after an error for want of memory."""
    half, twice = max(1, args.batch_size // 2), 2 * args.gradient_accumulation_steps
    smaller = f"--batch_size {half} --gradient_accumulation_steps {twice} (the same images to a step)"
    return memory_advice(
        "this device",
        {
            smaller: args.batch_size > 1,
            "--gradient_checkpointing": not args.gradient_checkpointing,
            "--mixed_precision bf16 or fp16": args.mixed_precision in (None, "no"),
            "--cache_dir": not args.cache_dir,
            "without --captions": bool(args.captions),
            "--trainable adapter": args.trainable == "unet",
            "a smaller --resolution": True,
        },
    )


def main():
    args = parse_args()
    try:
        train(args)
    except (TrainingError, CheckpointError, CacheError, PairError, OSError, ValueError) as error:
        sys.exit(f"train.py: {error}")
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        sys.exit(f"train.py: {memory_needed(args)}")
    finally:
        unlock(args.output_dir)


if __name__ == "__main__":
    run(main)
