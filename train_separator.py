"""Stage one: trains the separator on FSD50K, or fine-tunes it on another set (paper, stage 1).

    accelerate launch train_separator.py --data_dir DATA_DIR --output_dir output/separator

Writes OUTPUT_DIR/separator (safetensors), and on the way checkpoints, metrics.jsonl and figures/epoch_<n>.png.
"""

import argparse
import sys
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer

from macs import ClapEncoder, Separator
from macs.audio import SAMPLE_RATE, SILENCE, load_clip
from macs.data.clips import Clips, audio_folder, collate, find_audio, find_stems, label_files, labels_of
from macs.data.labels import label_texts
from macs.losses import contrastive_loss, correlation_loss, mixit_loss, ranking_loss, si_sdr_improvement
from macs.plots import sources_figure
from macs.released import CheckpointError, export_separator, open_separator
from macs.training.loop import (
    EpochSampler,
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

LOSSES = ("mixit", "correlation", "contrastive", "ranking")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="holds DATASET_NAME/...")
    parser.add_argument("--dataset_name", default="FSD50K", help="FSD50K, LLP, AudioSet, Landscape or a set of yours")
    parser.add_argument("--data_set", default="train", help="folder of the set's training part; FSD50K has none")
    parser.add_argument("--labels", nargs="+", help="label files; default: the set's own, in its folder or asset/")
    parser.add_argument("--validation_set", help="folder of the validation part; default: clips held out")
    parser.add_argument("--validation_clips", type=int, default=256, help="at most, and at most a tenth of all")
    parser.add_argument(
        "--clap", default="laion/clap-htsat-unfused",
        help="frozen CLAP: folder or hub id of a ClapModel, a saved pipeline, or the released separator .pt",
    )  # fmt: skip
    parser.add_argument("--clap_tokenizer", help="folder or hub id; default: CLAP's own, roberta-base for a .pt")
    parser.add_argument("--finetune", help="separator to start from: released .pt, or a folder written by this script")
    parser.add_argument("--export_released", help="also write the result in the authors' format to this .pt file")
    parser.add_argument("--M", type=int, default=6, help="signals")
    parser.add_argument("--channels", type=int, default=64, help="width of the U-Net, a multiple of 16")
    parser.add_argument(
        "--decorrelation", type=float, default=0.0,
        help="weight, in dB, of the loss that has a source go to one signal, not several; the paper has none",
    )  # fmt: skip
    parser.add_argument("--clip_seconds", type=float, default=8.0)
    add_training_arguments(parser, epochs=20, lr=1e-3, batch_size=8, gradient_accumulation_steps=2)
    return parser.parse_args()


def open_clap(path, tokenizer=None):
    """(ClapEncoder, tokenizer), frozen, from what --clap names."""
    folder = Path(path)
    if folder.suffix == ".pt":
        clap = open_separator(path)[1]
        tokenizer = tokenizer or "roberta-base"
    elif (folder / "clap").is_dir():
        clap = ClapEncoder.from_pretrained(folder / "clap")
        tokenizer = tokenizer or folder / "clap_tokenizer"
    else:
        clap = ClapEncoder.from_pretrained(path)
    return clap.float().eval().requires_grad_(False), AutoTokenizer.from_pretrained(tokenizer or path)


def make_separator(args):
    """The separator to train: a new one, or the one --finetune names, which must have the sizes asked for."""
    num_samples = round(args.clip_seconds * SAMPLE_RATE)
    if not args.finetune:
        set_seed(args.seed)  # the same weights in every process
        separator = Separator(args.M, args.channels, num_samples=num_samples)
        set_seed(args.seed, device_specific=True)
        return separator
    folder = Path(args.finetune)
    if folder.suffix == ".pt":
        separator = open_separator(folder, args.M)[0]
    else:
        folder = folder / "separator" if (folder / "separator").is_dir() else folder
        separator = Separator.from_pretrained(folder).float()
    found = separator.config.num_sources, separator.config.num_samples
    if found != (args.M, num_samples):
        raise CheckpointError(
            f"{args.finetune}: made for M = {found[0]} and {found[1] / SAMPLE_RATE:g} s, expected M = {args.M} and "
            f"{args.clip_seconds:g} s; set --M and --clip_seconds to its sizes."
        )
    return separator


def make_datasets(args):
    """(training Clips, validation Clips, the distinct texts); see `Clips` for what the text numbers are."""
    paths = find_audio(audio_folder(args.data_dir, args.dataset_name, args.data_set))
    files = args.labels or label_files(args.data_dir, args.dataset_name)
    if args.validation_set:
        held_out = find_audio(audio_folder(args.data_dir, args.dataset_name, args.validation_set))
        held_out = held_out[: args.validation_clips]
    else:
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(args.seed)).tolist()
        count = min(args.validation_clips, len(paths) // 10)
        held_out = [paths[i] for i in sorted(order[:count])]
        paths = [paths[i] for i in sorted(order[count:])]
    texts = [label_texts(labels, args.dataset_name, args.M) for labels in labels_of(paths + held_out, files)]
    numbers = {text: i for i, text in enumerate(sorted({text for row in texts for text in row}))}
    text_ids = torch.tensor([[numbers[text] for text in row] for row in texts])
    num_samples = round(args.clip_seconds * SAMPLE_RATE)
    training = Clips(paths, text_ids[: len(paths)], num_samples, args.seed)
    return training, Clips(held_out, text_ids[len(paths) :], num_samples, args.seed), list(numbers)


def mixture_losses(separator, clap, waveform, text_embeds, logit_scale, autocast, with_clap=True):
    """The losses on mixtures of two clips, each clip with its neighbour in the batch.

    waveform (B, T), text_embeds (B, L, D). Returns a dict: mixit, correlation, contrastive, ranking (scalars; the
    latter two only with_clap), mixture (B, T), sources (B, M, T), similarity (B, M) of each signal's embedding with its
    mixture's.
    """
    mixture_1, mixture_2 = waveform, waveform.roll(1, dims=0)
    mixture = mixture_1 + mixture_2
    sources = separator(mixture)
    result = {"mixture": mixture, "sources": sources, "mixit": mixit_loss(sources, mixture_1, mixture_2)}
    result["correlation"] = correlation_loss(sources)
    if with_clap:
        with autocast():
            source_embeds = clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2])  # one batch of B*M
            with torch.no_grad():
                mixture_embeds = clap.encode_audio(mixture)  # once, whatever M
        source_embeds, mixture_embeds = source_embeds.float(), mixture_embeds.float()
        texts = torch.cat([text_embeds, text_embeds.roll(1, dims=0)], dim=1)
        result["contrastive"] = contrastive_loss(source_embeds, texts, logit_scale)
        result["similarity"] = (source_embeds * mixture_embeds[:, None]).sum(-1)
        result["ranking"] = ranking_loss(result["similarity"])
    return result


@torch.no_grad()
def validate(accelerator, separator, clap, text_table, loader, stems, batch_size):
    """Means over the validation clips: the losses, SI-SDR improvement (dB), share in which signal 1 leads.

    On mixtures of two clips, whose sources the two clips are; and where scenes come with their stems, on those too
    (si_sdr_improvement_stems). Returns ({name: number}, the first mixture's parts for the figure).
    """
    separator = accelerator.unwrap_model(separator).eval()  # without DDP: the processes may have unequal shares
    loader.set_epoch(0)  # the same excerpts every time; accelerate counts the passes otherwise
    sums, shown = {}, None

    def add(name, values):
        total = sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
        total += torch.tensor([float(values.sum()), values.numel()], dtype=torch.float64)

    def add_improvement(name, sources, references):  # SI-SDR says nothing about a silent reference
        audible = (references.abs().amax(-1) > SILENCE).all(1)
        add(name, si_sdr_improvement(sources, references)[audible])

    for batch in tqdm(loader, desc="validation", leave=False, disable=not accelerator.is_local_main_process):
        text_embeds, clips = text_table[batch["text_ids"]], batch["waveform"]
        parts = mixture_losses(separator, clap, clips, text_embeds, separator.logit_scale, accelerator.autocast)
        shown = shown or {name: parts[name][0].cpu() for name in ("mixture", "sources", "similarity")}
        for name in LOSSES:
            add(name, parts[name])
        references = torch.stack([clips, clips.roll(1, dims=0)], dim=1)
        add_improvement("si_sdr_improvement", parts["sources"], references)
        add("signal_1_leads", (parts["similarity"].argmax(-1) == 0).double())

    # Scenes with stems, those with equally many together
    for count in sorted({len(paths) for paths in stems}):
        scenes = [paths for paths in stems if len(paths) == count]
        scenes = scenes[accelerator.process_index :: accelerator.num_processes]
        for start in range(0, len(scenes), batch_size):
            references = torch.stack(
                [
                    torch.stack([load_clip(path, 0.0, separator.config.num_samples) for path in paths])
                    for paths in scenes[start : start + batch_size]
                ]
            ).to(accelerator.device)  # (B, K, T)
            add_improvement("si_sdr_improvement_stems", separator(references.sum(1)), references)
    separator.train()

    names = [*LOSSES, "si_sdr_improvement", "signal_1_leads"]
    names += ["si_sdr_improvement_stems"] if stems else []
    table = torch.stack([sums.get(name, torch.zeros(2, dtype=torch.float64)) for name in names])
    table = accelerator.reduce(table.to(accelerator.device, torch.float32))
    means = {f"validation/{name}": (row[0] / row[1]).item() for name, row in zip(names, table, strict=True)}
    return means, shown


def train(args):
    if args.batch_size < 2:
        raise TrainingError("--batch_size must be 2 or more: each clip is mixed with its neighbour in the batch.")
    if args.export_released and Path(args.clap).suffix != ".pt":
        raise TrainingError("--export_released needs --clap to be the released separator .pt: the file it writes holds "
                            "CLAP and more, which is taken over from there.")  # fmt: skip
    accelerator = make_accelerator(args)

    # Data
    training, validation, texts = make_datasets(args)
    step_size = args.batch_size * accelerator.num_processes
    if len(training) < step_size:
        raise TrainingError(f"{training.paths[0].parent}: {len(training)} training clips, expected at least "
                            f"{step_size}, one batch for each process; lower --batch_size.")  # fmt: skip
    validation_batch = min(args.batch_size, len(validation) // accelerator.num_processes)
    loaders = [
        DataLoader(
            clips, batch_size, sampler=sampler, drop_last=True, num_workers=args.num_workers, collate_fn=collate,
            pin_memory=accelerator.device.type == "cuda", generator=torch.Generator(),
        )
        for clips, batch_size, sampler in [
            (training, args.batch_size, EpochSampler(len(training), args.seed)),
            (validation, max(validation_batch, 1), None),
        ]
    ]  # fmt: skip
    stems = list(find_stems(validation.paths).values()) if len(validation) else []
    accelerator.print(f"{len(training)} clips to train, {len(validation)} to validate, {len(texts)} texts")

    # Models. CLAP is frozen: it stays out of the optimizer, but gradients flow through it to the signals.
    separator = make_separator(args)
    clap, tokenizer = open_clap(args.clap, args.clap_tokenizer)
    clap.to(accelerator.device)
    with torch.no_grad():  # every text is embedded once
        text_table = torch.cat([clap.encode_text(texts[i : i + 64], tokenizer) for i in range(0, len(texts), 64)])
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        separator = nn.SyncBatchNorm.convert_sync_batchnorm(separator)  # made for GPUs only

    optimizer = torch.optim.AdamW(separator.parameters(), lr=args.lr)
    separator, optimizer, loader, validation_loader = accelerator.prepare(separator, optimizer, *loaders)
    schedule, position = make_schedule(args, optimizer, len(loader)), Position()
    accelerator.register_for_checkpointing(schedule, position)
    logit_scale = accelerator.unwrap_model(separator).logit_scale
    names = ["dataset_name", "M", "channels", "clip_seconds", "epochs", "lr", "batch_size", "scheduler", "seed"]
    names += ["decorrelation"]
    settings = {name: getattr(args, name) for name in [*names, "gradient_accumulation_steps"]}
    settings |= {"clips": len(training), "processes": accelerator.num_processes}
    settings |= {"mixed_precision": accelerator.mixed_precision}
    if args.resume:
        resume(accelerator, args.output_dir, args.resume, settings)

    skipped = set()
    while position.epoch < args.epochs:
        alpha = position.epoch / max(args.epochs - 1, 1)  # from 0 in the first epoch to 1 in the last
        for batch, bar in epoch_batches(accelerator, loader, position, args.epochs):
            with accelerator.accumulate(separator):
                parts = mixture_losses(
                    separator, clap, batch["waveform"], text_table[batch["text_ids"]], logit_scale,
                    accelerator.autocast, with_clap=alpha > 0,
                )  # fmt: skip
                if alpha > 0:
                    loss = (1 - alpha) * parts["mixit"] + alpha * (parts["contrastive"] + parts["ranking"])
                else:
                    loss = parts["mixit"] + 0 * logit_scale  # every parameter takes part, as DDP expects
                loss = loss + args.decorrelation * parts["correlation"]
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses = {name: parts[name].item() for name in LOSSES if name in parts}
            bar.set_postfix({name: f"{value:.2f}" for name, value in losses.items()})
            for message in set(batch["skipped"]) - skipped:
                bar.write(f"skipped: {message}")
            skipped.update(batch["skipped"])
            if accelerator.sync_gradients:
                if not accelerator.optimizer_step_was_skipped:
                    schedule.step()
                position.step += 1
                rates = {"lr": schedule.get_last_lr()[0], "alpha": alpha, "scale": logit_scale.exp().item()}
                accelerator.log({f"train/{k}": v for k, v in (losses | rates).items()}, step=position.step)
                if position.step % args.checkpointing_steps == 0 and position.batch < len(loader):
                    save_checkpoint(accelerator, args.output_dir, position, settings, args.checkpoints_kept)
        position.epoch, position.batch = position.epoch + 1, 0

        # After every epoch: validation, figure, checkpoint
        if validation_batch > 1:
            metrics, shown = validate(
                accelerator, separator, clap, text_table, validation_loader, stems, args.batch_size
            )
            log_metrics(accelerator, args.output_dir, {"epoch": position.epoch, **metrics}, position.step)
            summary = ", ".join(f"{name.split('/')[1]} {value:.3f}" for name, value in metrics.items())
            accelerator.print(f"epoch {position.epoch}: {summary}")
            if accelerator.is_main_process:
                figure = sources_figure(shown["mixture"], shown["sources"])
                similarity = ", ".join(f"{value:.2f}" for value in shown["similarity"])
                title = f"two clips mixed, after epoch {position.epoch}; similarity to the mixture {similarity}"
                figure.suptitle(title, fontsize=8)
                path = Path(args.output_dir) / "figures" / f"epoch_{position.epoch:03d}.png"
                log_figure(accelerator, "validation", figure, path, position.step)
        save_checkpoint(accelerator, args.output_dir, position, settings, args.checkpoints_kept)
    number_skipped = accelerator.reduce(torch.tensor(float(len(skipped)), device=accelerator.device))
    if number_skipped:
        accelerator.print(f"{number_skipped:.0f} recordings could not be decoded and were skipped.")

    # The trained model
    if accelerator.is_main_process:
        target = Path(args.output_dir) / "separator"
        accelerator.unwrap_model(separator).save_pretrained(target.with_name("separator.partial"))
        replace_folder(target.with_name("separator.partial"), target)
        print(f"Trained separator: {target}")
        if args.export_released:
            export_separator(accelerator.unwrap_model(separator), args.clap, args.export_released)
            print(f"In the authors' format: {args.export_released}")
    # DDP goes before the process group: as its last owner it would hold Python's lock while it waits for gloo's
    # threads, which may wait for that lock (pytorch issue 56297): a process that never ends
    del separator
    accelerator.free_memory()
    accelerator.end_training()


def main():
    try:
        train(parse_arguments())
    except (TrainingError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"train_separator.py: {error}")


if __name__ == "__main__":
    main()
