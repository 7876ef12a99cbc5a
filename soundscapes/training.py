"""What the training scripts of the embedded model share: options, scenes as a dataset, a seeded, resumable loop."""

import argparse
import os
import time
from pathlib import Path

import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from macs.files import write_beside, write_folder_beside
from macs.options import integer, number

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """With defaults, and the description in its own lines."""


def training_parser(description, *, scenes, batch_size, lr, output_dir="checkpoints/tiny", trains=None):
    """An argparse parser with the options of all these scripts, with the script's own defaults.

    trains: which folders of --model_dir the script trains; without them it has no --model_dir, and no --bf16.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add = parser.add_argument
    if trains:
        add("--model_dir", default="asset/macs-tiny", help=f"folder of the model: trains its {trains}")
        add("--bf16", action="store_true", help="bfloat16 autocast: faster on GPUs, and CPUs that have it")
    add("--output_dir", default=output_dir, help="receives the training's state and results")
    add("--scenes", type=integer(1), default=scenes, help="different ones, made for this training")
    add("--batch_size", type=integer(1), default=batch_size, help="scenes, or clips, in a step")
    add("--lr", type=number(0), default=lr, help="peak learning rate")
    add("--seed", type=integer(0), default=0, help="of scenes, noise and all else that is drawn")
    add("--num_workers", type=integer(0), default=os.cpu_count() - 1, help="processes that make the scenes")
    return parser


class Items(Dataset):
    """make(index) for the indices from start to stop; make is a function of the module's top level."""

    def __init__(self, make, start, stop):
        self.make, self.start, self.stop = make, start, stop

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, number):
        return self.make(self.start + number)


def fresh_batches(make, batch_size, steps, num_workers):
    """Batches of make(index), each index once, for `train`: a function of the first step → iterable of batches."""

    def batches(done):
        return DataLoader(Items(make, done * batch_size, steps * batch_size), batch_size, num_workers=num_workers)

    return batches


def train(name, modules, batches, loss_of, steps, lr, folder, seed=0, bf16=False, save_every=200):
    """Trains modules {name: module} in place with AdamW, 5% warm-up and a cosine; they end as their running average.

    batches: function of the first step to do → iterable of batches. loss_of: function of a batch → scalar tensor, run
    under bfloat16 autocast if bf16. The average reaches over a twentieth of the steps. Every step is seeded by its
    number and the state saved in `folder`/<name>.pt every `save_every` steps, so that an interrupted training goes on
    where it was and ends in the same weights. Raises SystemExit where the state is of another number of steps.
    """
    model = nn.ModuleDict(modules).to(DEVICE).train()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(max(0.0, 1 - 20 / steps)), use_buffers=True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    state = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}

    path, done, start = Path(folder) / f"{name}.pt", 0, time.time()
    if path.exists():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["steps"] != steps:
            raise SystemExit(f"{path} is of a training of {saved['steps']} steps, not {steps}: remove it to start anew")
        for part, value in state.items():
            value.load_state_dict(saved[part])
        done = saved["done"]

    progress = tqdm(batches(done), initial=done, total=steps, desc=name, mininterval=1)
    for step, batch in enumerate(progress, start=done):
        torch.manual_seed(seed * 1_000_003 + step)  # dropout, noise and timesteps, whatever happened before
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % save_every == 0 or step + 1 == steps:
            saved = {part: value.state_dict() for part, value in state.items()} | {"done": step + 1, "steps": steps}
            with write_beside(path) as partial:
                torch.save(saved, partial)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    print(f"{name}: steps {done} to {steps} in {(time.time() - start) / 60:.1f} min")


def save_part(part, model_dir, name):
    """Puts a trained part, in half precision, into the pipeline's folder in place of the one there, all at once."""
    with write_folder_beside(Path(model_dir) / name) as partial:
        nn.Module.half(part).save_pretrained(partial)
