"""What both training stages share: accelerate's set-up, the schedule, checkpoints that resume exactly, logging."""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import SchedulerType, get_scheduler
from tqdm import tqdm

WARMUP = 0.1  # share of the optimizer steps in which the learning rate rises from 0


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says which file, what was expected, what came, what to do."""


def add_training_arguments(parser, *, epochs, lr, batch_size, gradient_accumulation_steps):
    """Adds the options of both stages to an argparse parser, with the stage's own defaults."""
    parser.add_argument("--output_dir", required=True, help="receives checkpoints, figures, logs and the trained model")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--lr", type=float, default=lr, help="peak learning rate of AdamW")
    parser.add_argument("--batch_size", type=int, default=batch_size, help="clips per process and step")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=gradient_accumulation_steps)
    parser.add_argument(
        "--scheduler", default="cosine", choices=[kind.value for kind in SchedulerType],
        help=f"learning rate schedule; the first {WARMUP:.0%}% of the steps warm up",
    )  # fmt: skip
    parser.add_argument(
        "--mixed_precision", choices=["no", "fp16", "bf16"], help="default: as accelerate is configured, else no"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=4, help="processes that read data, per training process")
    parser.add_argument("--resume", metavar="latest|FOLDER", help="checkpoint to continue; latest: of --output_dir")
    parser.add_argument(
        "--checkpointing_steps", type=int, default=1000,
        help="optimizer steps between checkpoints; there is one after every epoch too",
    )  # fmt: skip
    parser.add_argument("--checkpoints_kept", type=int, default=2, help="older ones are removed")
    parser.add_argument("--report_to", choices=["tensorboard", "wandb"], help="logs curves and figures there")


def make_accelerator(args):
    """Accelerator for the shared options; seeds every generator, with one seed per process for dropout and noise."""
    output_dir = Path(args.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{output_dir}: the output folder cannot be made ({error.strerror}).") from error
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without a GPU several processes find each other only when told so
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=output_dir,
        step_scheduler_with_optimizer=False,  # the schedule counts optimizer steps, whatever the number of processes
    )
    if args.report_to:
        settings = {name: value for name, value in vars(args).items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("macs", config=settings)
    set_seed(args.seed, device_specific=True)
    return accelerator


def make_schedule(args, optimizer, batches_per_epoch):
    """Learning rate schedule over the whole run; batches_per_epoch: batches of one process."""
    steps = args.epochs * -(-batches_per_epoch // args.gradient_accumulation_steps)
    return get_scheduler(args.scheduler, optimizer, num_warmup_steps=round(WARMUP * steps), num_training_steps=steps)


class EpochSampler(torch.utils.data.Sampler):
    """All indices in an order drawn from (seed, epoch), without touching the global generators."""

    def __init__(self, size, seed):
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.size

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.size, generator=generator).tolist()


@dataclass
class Position:
    """Where a run stands: epochs done, batches done in the present epoch (of one process), optimizer steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0

    def state_dict(self):
        return asdict(self)

    def load_state_dict(self, state):
        self.__dict__.update(state)


def epoch_batches(accelerator, loader, position, total_epochs):
    """Yields the rest of the present epoch's batches from a prepared loader, with a bar; advances position.batch.

    Dataset and samplers that have `set_epoch` are told the epoch. Yields (batch, bar). Make the loader with a
    generator of its own: torch draws from the global one otherwise, and a resumed run would differ.
    """
    part = loader
    while part is not None:
        if hasattr(part, "set_epoch"):
            part.set_epoch(position.epoch)
        part = getattr(part, "batch_sampler", None) or getattr(part, "sampler", None)
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(position.epoch)
    total, done = len(loader), position.batch
    if done:
        loader = accelerator.skip_first_batches(loader, done)
    with tqdm(
        total=total, initial=done, desc=f"epoch {position.epoch + 1}/{total_epochs}", unit="batch",
        disable=not accelerator.is_local_main_process,
    ) as bar:  # fmt: skip
        for batch in loader:
            position.batch += 1
            yield batch, bar
            bar.update()


def save_checkpoint(accelerator, output_dir, position, settings, keep):
    """Writes checkpoints/step-<step>: models, optimizer, schedule, all generators, position. The last `keep` stay.

    Written beside and renamed, so that a kill or a full disk leaves the earlier ones whole; called by all processes.
    settings: what a run that resumes from it must share (see `resume`). Raises TrainingError.
    """
    folder = Path(output_dir) / "checkpoints"
    target = folder / f"step-{position.step:08d}"
    partial = target.with_suffix(".partial")
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # left behind by a kill
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(partial)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / "settings.json").write_text(json.dumps(settings, indent=2))
            for path in partial.rglob("*"):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            replace_folder(partial, target)  # there may be one of an earlier run that went this far
            for path in checkpoints(output_dir)[:-keep]:
                shutil.rmtree(path, ignore_errors=True)
        accelerator.wait_for_everyone()
    except Exception as error:  # OSError, or what torch and safetensors make of one
        shutil.rmtree(partial, ignore_errors=True)
        found = checkpoints(output_dir)
        rest = f"; {found[-1]} is whole: make room and go on with --resume latest" if found else ""
        raise TrainingError(f"{target}: the checkpoint could not be written ({error}){rest}.") from error


def replace_folder(partial, target):
    """Renames a complete folder to `target`, in place of one that an earlier run left there."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def checkpoints(output_dir):
    """The complete checkpoints of a run, oldest first."""
    return sorted((Path(output_dir) / "checkpoints").glob("step-" + "[0-9]" * 8))


def resume(accelerator, output_dir, which, settings):
    """Loads checkpoint `which` ("latest" or a folder) into all that was prepared and registered for checkpointing.

    Raises TrainingError where there is none, or where it was made with other settings, and names those.
    """
    found = checkpoints(output_dir)[-1:] if which == "latest" else [Path(which)]
    if not found or not (found[0] / "settings.json").is_file():
        place = Path(output_dir) / "checkpoints" if which == "latest" else which
        raise TrainingError(f"{place}: expected a checkpoint (a folder step-<number>) to resume from; found none. "
                            "Leave out --resume to start anew.")  # fmt: skip
    theirs = json.loads((found[0] / "settings.json").read_text())
    wrong = [f"{name} {theirs.get(name)} (now {settings.get(name)})"
             for name in sorted({*theirs, *settings}) if theirs.get(name) != settings.get(name)]  # fmt: skip
    if wrong:
        raise TrainingError(f"{found[0]}: made with other settings: {', '.join(wrong)}. Resume with the same ones, or "
                            "start a new run from its weights.")  # fmt: skip
    try:
        accelerator.load_state(found[0])
    except Exception as error:  # OSError, or what torch and safetensors make of one
        raise TrainingError(f"{found[0]}: the checkpoint cannot be read ({error}). Remove it to resume from the one "
                            "before.") from error  # fmt: skip
    accelerator.print(f"Resumed from {found[0]}")


def log_metrics(accelerator, output_dir, metrics, step):
    """Logs {name: number} to the tracker and to metrics.jsonl, a line per call."""
    accelerator.log(metrics, step=step)
    if accelerator.is_main_process:
        with (Path(output_dir) / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")


def log_figure(accelerator, name, figure, path, step):
    """Saves a matplotlib figure as png, beside and renamed, and logs it to the tracker."""
    import numpy as np
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial.png")
    figure.savefig(beside, dpi=110)
    os.replace(beside, path)
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: np.asarray(Image.open(path).convert("RGB"))[None]}, step=step, **layout)
