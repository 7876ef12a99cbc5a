"""Setting a training up, on whatever devices and processes there are, and ending it."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed

from macs.devices import check_device
from macs.files import write_beside


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says which file, what was expected, what came, what to do."""


def make_accelerator(output_dir, *, mixed_precision, gradient_accumulation_steps, seed, report_to=None, config=None):
    """Accelerator of a run; makes output_dir; seeds every generator, with one seed per process for dropout and noise.

    config: {name: value} for the tracker report_to. Raises TrainingError, also where output_dir is in use.
    """
    output_dir = Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{output_dir}: the output folder cannot be made ({error.strerror}).") from error
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without a GPU several processes find each other only when told so
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=gradient_accumulation_steps,
        log_with=report_to,
        project_dir=output_dir,
        step_scheduler_with_optimizer=False,  # the schedule counts optimizer steps, whatever the number of processes
    )
    try:
        check_device(accelerator.device, accelerator.mixed_precision)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if accelerator.is_main_process:
        lock(output_dir)
    if report_to:
        settings = {name: value for name, value in (config or {}).items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("macs", config=settings)
    set_seed(seed, device_specific=True)
    return accelerator


_locks = {}  # {output folder: its open lock file}, until `unlock` or the end of the process


def lock(output_dir):
    """Refuses a second training with the same output folder; a killed run leaves no lock behind."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock: nothing is refused there
        return
    file = open(output_dir / ".lock", "w")  # stays open as long as the run
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise TrainingError(f"{output_dir}: another training writes there now; choose another --output_dir.") from error
    _locks[output_dir] = file


def unlock(output_dir):
    """Ends `lock`."""
    if file := _locks.pop(Path(output_dir), None):
        file.close()


def finish(accelerator, output_dir):
    """Ends a training; the script drops its own references to the prepared models before.

    DDP goes before the process group: as its last owner it would hold Python's lock while it waits for gloo's threads,
    which may wait for that lock (pytorch issue 56297): a process that never ends.
    """
    accelerator.free_memory()
    accelerator.end_training()
    unlock(output_dir)


def clip_gradients(accelerator, model, trained, clip_grad):
    """Clips the gradients' values (paper: at 1) when a step is due; their norm where they are sharded."""
    if not accelerator.sync_gradients:
        return
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        accelerator.clip_grad_norm_(model.parameters(), clip_grad)
    else:
        accelerator.clip_grad_value_(trained, clip_grad)


def log_figure(accelerator, name, figure, path, step):
    """Saves a matplotlib figure as png, beside and renamed, and logs it to the tracker."""
    import numpy as np
    from PIL import Image

    with write_beside(path) as partial:
        figure.savefig(partial, dpi=110)
    for tracker in accelerator.trackers:
        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        tracker.log_images({name: np.asarray(Image.open(path).convert("RGB"))[None]}, step=step, **layout)
