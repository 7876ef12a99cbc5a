"""Stage one: trains the separator on FSD50K, or fine-tunes it on another set (paper, stage 1).

Run by train_separator.sh. Writes OUTPUT_DIR/separator (safetensors), and on the way checkpoints, metrics.jsonl and
figures/epoch_<n>.png.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from macs.options import add_public_options, integer, number
from macs.script import importing, run
from macs.training.options import NOT_COMPARED as NOT_COMPARED_EITHER
from macs.training.options import add_training_arguments

LOSSES = ("mixit", "contrastive", "ranking")  # the paper's

# What a resumed run may change: where things lie (clips, labels and weights are compared by what they hold), and what
# is measured and written on the way
NOT_COMPARED = NOT_COMPARED_EITHER | {
    "data_dir", "labels", "clap", "clap_tokenizer", "finetune", "export_released", "validation_set",
    "validation_clips",
}  # fmt: skip


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="holds DATASET_NAME/...")
    add("--dataset_name", default="FSD50K", help="FSD50K, LLP, AudioSet, Landscape or a set of yours")
    add("--data_set", default="train", help="folder of the set's training part; FSD50K has none")
    add("--labels", nargs="+", help="label files; default: the set's own, in its folder or asset/")
    add("--validation_set", help="folder of the validation part; default: clips held out")
    add("--validation_clips", type=integer(0), default=256, help="at most, and at most a tenth of all")
    clap = "frozen CLAP: folder or hub id of a ClapModel, a saved pipeline, or the released separator .pt"
    add("--clap", default="laion/clap-htsat-unfused", help=clap)
    add("--clap_tokenizer", help="folder or hub id; default: CLAP's own, roberta-base for a .pt")
    finetune = "separator to start from: released .pt, or a folder written by this script"
    add("--finetune", nargs="?", const="", help=finetune)
    add("--export_released", help="also write the result in the authors' format to this .pt file")
    add("--M", type=integer(1), help="signals of a new separator (default 6); with --finetune M is that one's")
    add("--channels", type=integer(16), default=64, help="width of a new separator's U-Net, a multiple of 16")
    add("--clip_seconds", type=number(0.1), default=8.0)
    add("--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="for ablations: any of the paper's three")
    alpha = "weight of contrastive and ranking, 1 - alpha that of MixIT; linear: 0 in the first epoch to 1 in the last"
    add("--alpha", nargs="+", default=["linear"], metavar="linear|constant VALUE", help=alpha)
    decorrelation = "weight, in dB, of a loss on signals that resemble each other; the paper has none"
    add("--decorrelation", type=number(0), default=0.0, help=decorrelation)
    add_training_arguments(parser, epochs=20, lr=1e-3, batch_size=8, gradient_accumulation_steps=2)
    file = "separator_FSD50K_full.pt"
    add_public_options(parser, {
        "--pt_path": ((), f"--clap PT_PATH/{file} takes CLAP from it, --finetune PT_PATH/{file} the separator"),
        "--sd_path": ((), "stage one draws nothing"),
        "--input_length": (("8",), "--clip_seconds is the length of the excerpts"),
        "--sr": (("16000",), "the separator hears 16 kHz; recordings of any rate are resampled"),
        "--training": (("", "true"), "train_separator.py trains; inference.py --separate_only separates"),
    })  # fmt: skip
    args = parser.parse_args(arguments)
    if args.batch_size < 2:
        parser.error("--batch_size must be 2 or more: each clip is mixed with its neighbour in the batch.")
    if args.finetune == "":
        parser.error("--finetune takes the separator to start from, for instance PT_PATH/separator_FSD50K_full.pt")
    if args.export_released and Path(args.clap).suffix != ".pt":
        parser.error("--export_released needs --clap to be the released separator .pt: the file it writes holds CLAP "
                     "and more, which is taken over from there.")  # fmt: skip
    try:
        alpha_of(args.alpha, 0, 1)
    except ValueError as error:
        parser.error(str(error))
    return args


def alpha_of(rule, epoch, epochs):
    """Weight of contrastive + ranking in epoch `epoch` (from 0) of `epochs` by the rule ["linear"], ["constant", x]."""
    if rule == ["linear"]:
        return epoch / max(epochs - 1, 1)
    if len(rule) == 2 and rule[0] == "constant":
        with contextlib.suppress(argparse.ArgumentTypeError):
            return number(0, 1)(rule[1])
    raise ValueError(f"--alpha takes linear, or constant and a number from 0 to 1, but got {' '.join(rule)}")


def loss_weights(losses, alpha):
    """{name: weight} of the losses in use: 1 - alpha of MixIT, alpha of the other two (paper: all three).

    Of a subset, those that are left share the weight by the same rule; where only one side is left, it has weight 1.
    """
    weights = {"mixit": 1 - alpha, "contrastive": alpha, "ranking": alpha}
    weights = {name: weights[name] for name in losses}
    if "mixit" not in losses or losses == ["mixit"]:
        weights = dict.fromkeys(losses, 1.0)
    return weights


if __name__ == "__main__":
    parse_args()  # --help and mistakes end here: what is imported below takes seconds

with importing():
    import torch
    from accelerate.utils import set_seed
    from torch import nn
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    from macs import Separator
    from macs.audio import SAMPLE_RATE, SILENCE, load_clip
    from macs.data.clips import collate, find_stems, open_clips
    from macs.files import write_folder_beside
    from macs.loading import open_clap, open_clap_tokenizer, open_one_separator
    from macs.losses import contrastive_loss, correlation_loss, mixit_loss, ranking_loss, si_sdr_improvement
    from macs.plots import sources_figure
    from macs.released import CheckpointError, export_separator
    from macs.training.accelerator import TrainingError, finish, log_figure, make_accelerator, unlock
    from macs.training.loop import EpochSampler, Run, compared_settings, tensors_fingerprint


def open_start(path, num_sources, num_samples):
    """The separator that --finetune names, in float32; it must have the sizes asked for. Raises CheckpointError."""
    separator = open_one_separator(path).train()  # batch norm and dropout, as of a new one
    found = separator.config.num_sources, separator.config.num_samples
    if found != (num_sources or found[0], num_samples):
        raise CheckpointError(
            f"{path}: made for M = {found[0]} and {found[1] / SAMPLE_RATE:g} s, expected M = {num_sources or found[0]} "
            f"and {num_samples / SAMPLE_RATE:g} s; set --M and --clip_seconds to its sizes."
        )
    return separator


def mix(waveform, text_embeds):
    """A mixture of mixtures (MixIT): every clip of a batch is added to its neighbour, their labels are joined.

    waveform (B, T), text_embeds (B, L, D) -> mixture_1, mixture_2, mixture (B, T), text embeddings (B, 2L, D).
    """
    mixture_1, mixture_2 = waveform, waveform.roll(1, dims=0)
    texts = torch.cat([text_embeds, text_embeds.roll(1, dims=0)], dim=1)
    return mixture_1, mixture_2, mixture_1 + mixture_2, texts


def stage_one_losses(sources, mixture_1, mixture_2, texts, logit_scale, clap, autocast, names=LOSSES):
    """The losses named, {name: scalar}, of the separated signals; what is not named is not computed.

    sources (B, M, T); mixture_1, mixture_2 (B, T); texts (B, L, D). With contrastive or ranking also similarity (B, M),
    of each signal's embedding with the mixture's.
    """
    losses = {}
    if "mixit" in names:
        losses["mixit"] = mixit_loss(sources, mixture_1, mixture_2)
    if "correlation" in names:
        losses["correlation"] = correlation_loss(sources)
    if "contrastive" in names or "ranking" in names:
        with autocast():
            source_embeds = clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2])  # one batch of B*M
            with torch.no_grad():
                mixture_embeds = clap.encode_audio(mixture_1 + mixture_2)  # once, whatever M
        source_embeds, mixture_embeds = source_embeds.float(), mixture_embeds.float()
        losses["similarity"] = (source_embeds * mixture_embeds[:, None]).sum(-1)
        if "contrastive" in names:
            losses["contrastive"] = contrastive_loss(source_embeds, texts, logit_scale)
        if "ranking" in names:
            losses["ranking"] = ranking_loss(losses["similarity"])
    return losses


def train(args):
    accelerator = make_accelerator(
        args.output_dir, mixed_precision=args.mixed_precision, seed=args.seed, report_to=args.report_to,
        gradient_accumulation_steps=args.gradient_accumulation_steps, config=vars(args),
    )  # fmt: skip

    # The separator: a new one, or the one to fine-tune, whose M it is then
    num_samples = round(args.clip_seconds * SAMPLE_RATE)
    if args.finetune:
        separator = open_start(args.finetune, args.M, num_samples)
        args.M = separator.config.num_sources
    else:
        args.M = args.M or 6
        set_seed(args.seed)  # the same weights in every process
        separator = Separator(args.M, args.channels, num_samples=num_samples)
        set_seed(args.seed, device_specific=True)

    # Data
    training, validation, texts = open_clips(
        args.data_dir, args.dataset_name, args.data_set, args.labels, args.validation_set, args.validation_clips,
        args.M, num_samples, args.seed,
    )  # fmt: skip
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

    # CLAP is frozen: it stays out of the optimizer, but gradients flow through it to the signals
    clap = open_clap(args.clap).requires_grad_(False).to(accelerator.device)
    tokenizer = open_clap_tokenizer(args.clap, args.clap_tokenizer)
    with torch.no_grad():  # every text is embedded once
        text_table = torch.cat([clap.encode_text(texts[i : i + 64], tokenizer) for i in range(0, len(texts), 64)])

    # Optimizer
    settings = settings_of(args, accelerator, training, separator, clap, text_table)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        separator = nn.SyncBatchNorm.convert_sync_batchnorm(separator)  # made for GPUs only
    optimizer = torch.optim.AdamW(separator.parameters(), lr=args.lr)
    separator, optimizer, loader, validation_loader = accelerator.prepare(separator, optimizer, *loaders)
    logit_scale = accelerator.unwrap_model(separator).logit_scale
    run = Run(
        accelerator, args.output_dir, settings, optimizer, list(separator.parameters()), epochs=args.epochs,
        batches_per_epoch=len(loader), scheduler=args.scheduler, checkpointing_steps=args.checkpointing_steps,
        checkpoints_kept=args.checkpoints_kept,
    )  # fmt: skip
    if args.resume:
        run.resume(args.resume)

    # Training
    for epoch in run.epochs_left():
        alpha = alpha_of(args.alpha, epoch, args.epochs)
        weights = loss_weights(args.losses, alpha) | {"correlation": args.decorrelation}
        weights = {name: weight for name, weight in weights.items() if weight > 0}  # what counts nothing costs nothing
        for batch in run.batches(loader):
            with accelerator.accumulate(separator):
                mixture_1, mixture_2, mixture, texts = mix(batch["waveform"], text_table[batch["text_ids"]])
                sources = separator(mixture)
                losses = stage_one_losses(
                    sources, mixture_1, mixture_2, texts, logit_scale, clap, accelerator.autocast, weights
                )
                loss = sum(weight * losses[name] for name, weight in weights.items())
                accelerator.backward(loss + 0 * logit_scale)  # every parameter takes part, as DDP expects
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                shown = {"loss": loss.item()} | {name: losses[name].item() for name in weights}
                run.step_done(shown, alpha=alpha, scale=logit_scale.exp().item())

        if validation_batch > 1:
            metrics, shown = validate(
                accelerator, separator, clap, text_table, validation_loader, stems, args.batch_size
            )
            report(run, epoch + 1, metrics, shown)
    number_skipped = accelerator.reduce(torch.tensor(float(len(run.skipped)), device=accelerator.device))
    if number_skipped:
        accelerator.print(f"{number_skipped:.0f} recordings could not be decoded and were skipped.")

    # The trained model
    if accelerator.is_main_process:
        target = Path(args.output_dir) / "separator"
        with write_folder_beside(target) as partial:
            accelerator.unwrap_model(separator).save_pretrained(partial)
        print(f"Trained separator: {target}")
        if args.export_released:
            export_separator(accelerator.unwrap_model(separator), args.clap, args.export_released)
            print(f"In the authors' format: {args.export_released}")
    del separator, run
    finish(accelerator, args.output_dir)


def settings_of(args, accelerator, training, separator, clap, text_table):
    """What a run that resumes must share: the arguments, the clips and their texts, CLAP, the weights it began with."""
    return compared_settings(
        vars(args),
        NOT_COMPARED,
        clips=len(training),
        training=tensors_fingerprint(dict(zip([path.name for path in training.paths], training.text_ids, strict=True))),
        texts=tensors_fingerprint({"texts": text_table}),
        clap=tensors_fingerprint(clap.state_dict()),
        start=tensors_fingerprint(separator.state_dict()) if args.finetune else None,
        processes=accelerator.num_processes,
        mixed_precision=accelerator.mixed_precision,
    )


@torch.no_grad()
def validate(accelerator, separator, clap, text_table, loader, stems, batch_size):
    """Means over the validation clips: the losses, SI-SDR improvement (dB), share in which signal 1 leads.

    On mixtures of two clips, whose sources the two clips are; and where scenes come with their stems, on those too
    (si_sdr_improvement_stems). Returns ({name: number}, the first mixture's parts for the figure).
    """
    separator = accelerator.unwrap_model(separator).eval()  # without DDP: the processes may have unequal shares
    loader.set_epoch(0)  # the same excerpts every time; accelerate counts the passes otherwise
    sums, shown = {}, None
    losses_named = (*LOSSES, "correlation")

    def add(name, values):
        total = sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
        total += torch.tensor([float(values.sum()), values.numel()], dtype=torch.float64)

    def add_improvement(name, sources, references):  # SI-SDR says nothing about a silent reference
        audible = (references.abs().amax(-1) > SILENCE).all(1)
        add(name, si_sdr_improvement(sources, references)[audible])

    for batch in tqdm(loader, desc="validation", leave=False, disable=not accelerator.is_local_main_process):
        mixture_1, mixture_2, mixture, texts = mix(batch["waveform"], text_table[batch["text_ids"]])
        sources = separator(mixture)
        losses = stage_one_losses(
            sources, mixture_1, mixture_2, texts, separator.logit_scale, clap, accelerator.autocast, losses_named
        )
        similarity = losses["similarity"]
        if shown is None:
            shown = {"mixture": mixture[0].cpu(), "sources": sources[0].cpu(), "similarity": similarity[0].cpu()}
        for name in losses_named:
            add(name, losses[name])
        add_improvement("si_sdr_improvement", sources, torch.stack([mixture_1, mixture_2], dim=1))
        add("signal_1_leads", (similarity.argmax(-1) == 0).double())

    # Scenes with stems, those with equally many together; more stems than signals have no assignment
    for count in sorted({len(paths) for paths in stems if len(paths) <= separator.config.num_sources}):
        scenes = [paths for paths in stems if len(paths) == count]
        scenes = scenes[accelerator.process_index :: accelerator.num_processes]
        for start in range(0, len(scenes), batch_size):
            references = [
                torch.stack([load_clip(path, 0.0, separator.config.num_samples) for path in paths])
                for paths in scenes[start : start + batch_size]
            ]
            references = torch.stack(references).to(accelerator.device)  # (B, K, T)
            add_improvement("si_sdr_improvement_stems", separator(references.sum(1)), references)
    separator.train()

    names = [*losses_named, "si_sdr_improvement", "signal_1_leads"]
    names += ["si_sdr_improvement_stems"] if stems else []
    table = torch.stack([sums.get(name, torch.zeros(2, dtype=torch.float64)) for name in names])
    table = accelerator.reduce(table.to(accelerator.device, torch.float32))
    means = {f"validation/{name}": (row[0] / row[1]).item() for name, row in zip(names, table, strict=True)}
    return means, shown


def report(run, epoch, metrics, shown):
    """Logs and prints the validation's numbers after epoch `epoch`; draws its first mixture, figures/epoch_<n>.png."""
    run.log({"epoch": epoch, **metrics})
    summary = ", ".join(f"{name.split('/')[1]} {value:.3f}" for name, value in metrics.items())
    run.accelerator.print(f"epoch {epoch}: {summary}")
    if run.accelerator.is_main_process:
        figure = sources_figure(shown["mixture"], shown["sources"])
        similarity = ", ".join(f"{value:.2f}" for value in shown["similarity"])
        figure.suptitle(f"two clips mixed, after epoch {epoch}; similarity to the mixture {similarity}", fontsize=8)
        path = run.output_dir / "figures" / f"epoch_{epoch:03d}.png"
        log_figure(run.accelerator, "validation", figure, path, run.position.step)


def main():
    args = parse_args()
    try:
        train(args)
    except (TrainingError, CheckpointError, OSError, ValueError) as error:
        sys.exit(f"train_separator.py: {error}")
    finally:
        unlock(args.output_dir)


if __name__ == "__main__":
    run(main)
