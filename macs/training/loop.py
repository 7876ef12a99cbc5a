"""What both training stages have around their loops: schedule, position, exact resume, running average, logs."""

import contextlib
import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate.utils import load as load_tensors  # torch.load of tensors and numbers alone, numpy's among them
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from macs.files import replace_folder, sync_folder
from macs.training.accelerator import TrainingError
from macs.training.options import WARMUP

STATE = "state.pt"  # a checkpoint's position, schedule and running average
RANDOM_STATES = {"random_state", "numpy_random_seed", "torch_manual_seed"}


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


class Run:
    """A training run around its loop: position, learning rate, running average, checkpoints, logs, the bar.

        run = Run(accelerator, output_dir, settings, optimizer, ...)
        for epoch in run.epochs_left():
            for batch in run.batches(loader):
                ...  # forward, backward, optimizer.step()
                if accelerator.sync_gradients:
                    run.step_done({"loss": loss})

    settings: {name: value} that a run which resumes must share. epochs, batches_per_epoch (of one process): of the
    whole run, which the schedule spans. ema: decay of the running average of the trained parameters, or None.
    """

    def __init__(
        self,
        accelerator,
        output_dir,
        settings,
        optimizer,
        trained,
        *,
        epochs,
        batches_per_epoch,
        scheduler="cosine",
        ema=None,
        checkpointing_steps=1000,
        checkpoints_kept=2,
    ):
        self.accelerator, self.output_dir, self.epochs = accelerator, Path(output_dir), epochs
        self.settings = json.loads(json.dumps(settings, default=str))  # as they are read again
        self.checkpointing_steps, self.checkpoints_kept = checkpointing_steps, checkpoints_kept
        steps = epochs * -(-batches_per_epoch // accelerator.gradient_accumulation_steps)
        self.schedule = get_scheduler(
            scheduler, optimizer, num_warmup_steps=round(WARMUP * steps), num_training_steps=steps
        )
        self.trained = trained
        self.average = EMAModel(trained, decay=ema) if ema else None
        self.position, self.bar, self.broken_steps = Position(), None, 0
        self.skipped = set()  # messages of the files that could not be read on the way

    def epochs_left(self):
        """The numbers of the epochs to do, from 0; after each a checkpoint is written."""
        while self.position.epoch < self.epochs:
            yield self.position.epoch
            self.position.epoch, self.position.batch = self.position.epoch + 1, 0
            self.save_checkpoint()

    def batches(self, loader):
        """The batches left in the present epoch, of a prepared loader, with a bar.

        A batch's "skipped" holds the messages of files that could not be read; each is written once, and kept.
        Dataset and samplers that have `set_epoch` are told the epoch. Make the loader with a generator of its own:
        torch draws from the global one otherwise, and a resumed run would differ.
        """
        part = loader
        while part is not None:
            if hasattr(part, "set_epoch"):
                part.set_epoch(self.position.epoch)
            part = getattr(part, "batch_sampler", None) or getattr(part, "sampler", None)
        if hasattr(loader.dataset, "set_epoch"):
            loader.dataset.set_epoch(self.position.epoch)
        self.last_batch = len(loader)
        rest = self.accelerator.skip_first_batches(loader, self.position.batch) if self.position.batch else loader
        with tqdm(
            total=self.last_batch,
            initial=self.position.batch,
            desc=f"epoch {self.position.epoch + 1}/{self.epochs}",
            unit="batch",
            disable=not self.accelerator.is_local_main_process,
        ) as self.bar:
            for batch in rest:
                self.position.batch += 1
                for message in sorted(set(batch["skipped"]) - self.skipped):
                    self.bar.write(f"left out: {message}")
                self.skipped.update(batch["skipped"])
                yield batch
                self.bar.update()

    def step_done(self, losses, loss_name="loss", **also_logged):
        """After an optimizer step: the schedule, the average, logs, a checkpoint if it is due. losses: {name: number}.

        Raises TrainingError where losses[loss_name] is not finite; in fp16, which skips some steps by design, after
        20 such steps in a row.
        """
        accelerator, position = self.accelerator, self.position
        if not accelerator.optimizer_step_was_skipped:
            self.schedule.step()
        if self.average:
            self.average.step(self.trained)
        position.step += 1
        self.broken_steps = 0 if math.isfinite(losses[loss_name]) else self.broken_steps + 1
        if self.broken_steps > (20 if accelerator.mixed_precision == "fp16" else 0):
            raise TrainingError(
                f"the loss is {losses[loss_name]} in step {position.step}: go on from the last checkpoint "
                "(--resume latest) with a lower --lr, or train in bf16"
            )
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()})
        logged = losses | {"lr": self.schedule.get_last_lr()[0]} | also_logged
        accelerator.log({f"train/{name}": value for name, value in logged.items()}, step=position.step)
        if position.step % self.checkpointing_steps == 0 and position.batch < self.last_batch:
            self.save_checkpoint()

    def log(self, metrics):
        """Logs {name: number} to the tracker and to metrics.jsonl, a line per call; what is not finite becomes null."""
        self.accelerator.log(metrics, step=self.position.step)
        if self.accelerator.is_main_process:
            line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            with (self.output_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.position.step, **line}) + "\n")

    @contextlib.contextmanager
    def averaged(self):
        """The trained parameters are their running average inside the `with` block, if there is one."""
        if self.average:
            self.average.store(self.trained)
            self.average.copy_to(self.trained)
        yield
        if self.average:
            self.average.restore(self.trained)

    def save_checkpoint(self):
        """Writes checkpoints/step-<step>: models, optimizer, all generators, STATE. The last `checkpoints_kept` stay.

        Written beside and renamed, so that a kill or a full disk leaves the earlier ones whole; called by all
        processes. Raises TrainingError.
        """
        accelerator = self.accelerator
        target = self.output_dir / "checkpoints" / f"step-{self.position.step:08d}"
        partial = target.with_suffix(".partial")
        state = {"position": asdict(self.position), "schedule": self.schedule.state_dict()}
        if self.average:
            state["average"] = self.average.state_dict()
        try:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)  # left behind by a kill
                partial.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(partial)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                torch.save(state, partial / STATE)
                (partial / "settings.json").write_text(json.dumps(self.settings, indent=2))
                sync_folder(partial)
                replace_folder(partial, target)  # there may be one of an earlier run that went this far
                for path in checkpoints(self.output_dir)[: -self.checkpoints_kept]:
                    shutil.rmtree(path, ignore_errors=True)
            accelerator.wait_for_everyone()
        except Exception as error:  # OSError, or what torch and safetensors make of one
            shutil.rmtree(partial, ignore_errors=True)
            found = checkpoints(self.output_dir)
            rest = f"; {found[-1]} is whole: make room and go on with --resume latest" if found else ""
            raise TrainingError(f"{target}: the checkpoint could not be written ({error}){rest}.") from error

    def resume(self, which):
        """Goes on from checkpoint `which` ("latest" or a folder).

        Raises TrainingError where there is none, where it was made with other settings, and where a part of it cannot
        be read as tensors and numbers (nothing else is ever unpickled); the message names the setting or the file.
        """
        found = checkpoints(self.output_dir)[-1:] if which == "latest" else [Path(which)]
        if not found or not (found[0] / "settings.json").is_file():
            place = self.output_dir / "checkpoints" if which == "latest" else which
            raise TrainingError(
                f"{place}: expected a checkpoint (a folder step-<number>) to resume from; found none. "
                "Leave out --resume to start anew."
            )
        folder = found[0]
        self._compare_settings(folder)
        path = folder / f"random_states_{self.accelerator.process_index}.pkl"
        try:
            # accelerate goes on without a word where it cannot read the generators' states: looked at first
            if missing := RANDOM_STATES - load_tensors(path).keys():
                raise ValueError(f"no {', '.join(sorted(missing))} in it")
            path = folder / STATE
            state = torch.load(path, map_location="cpu", weights_only=True)
            if bool(self.average) != ("average" in state):
                raise ValueError("the running average is missing")
            position = Position(**state["position"])
            self.schedule.load_state_dict(state["schedule"])
            if self.average:
                self.average.load_state_dict(state["average"])
                self.average.to(self.accelerator.device)
            path = folder
            self.accelerator.load_state(folder)
        except Exception as error:  # OSError, or what torch, pickle and safetensors make of a broken or alien file
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise TrainingError(
                f"{path}: the checkpoint cannot be read ({reason}). Remove {folder} to resume from the one before."
            ) from error
        self.position = position
        self.accelerator.print(f"Resumed from {folder}")

    def _compare_settings(self, folder):
        path = folder / "settings.json"
        try:
            theirs = json.loads(path.read_text())
            names = sorted({*theirs, *self.settings})
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"{path}: the checkpoint cannot be read ({error}).") from error
        different = [name for name in names if theirs.get(name) != self.settings.get(name)]
        if not different:
            return
        shown = ", ".join(f"{name} {theirs.get(name)} (now {self.settings.get(name)})" for name in different)
        advice = "Resume with the same ones, or start a new run from its weights."
        if different == ["epochs"]:
            advice = (
                "The learning rate schedule spans all epochs, so a run cannot be made longer afterwards: start a new "
                "run, with a schedule of its own, from the weights that this one wrote (--adapter or --finetune)."
            )
        raise TrainingError(f"{folder}: made with other settings: {shown}. {advice}")


def compared_settings(arguments, not_compared, **more):
    """What a run that resumes must share: all arguments {name: value} but those named not_compared, and more.

    Those that name files are compared by what `more` holds of their contents (see `tensors_fingerprint`,
    `macs.files.fingerprint`).
    """
    return {name: value for name, value in arguments.items() if name not in not_compared} | more


def tensors_fingerprint(tensors):
    """Short name of the values of {name: tensor}, for instance of a model's state dict."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def checkpoints(output_dir):
    """The complete checkpoints of a run, oldest first."""
    return sorted((Path(output_dir) / "checkpoints").glob("step-" + "[0-9]" * 8))
