"""Trains the judge, a classifier of painted scenes, and prints its F1 on held-out ones: python scripts/train_judge.py

The scenes are painted while it trains, each of them once. Interrupted, it goes on from its last checkpoint and ends in
the same weights.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from macs.data.soundscapes import CLASSES, make_scene
from macs.judge import Judge


class Paintings(Dataset):
    """Scenes `start` to `stop` of a split: pictures (3, 128, 128) uint8 and labels (19,) of 0 and 1."""

    def __init__(self, split, seed, start, stop):
        self.split, self.seed, self.start, self.stop = split, seed, start, stop

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, number):
        scene = make_scene(self.split, self.start + number, self.seed)
        labels = torch.tensor([float(name in scene.labels) for name in CLASSES])
        return torch.from_numpy(np.array(scene.image)).permute(2, 0, 1), labels


def augment(images, generator):
    """Mirrors, dims, blurs and roughens pictures (B, 3, H, W) in [-1, 1], as a decoder's flaws would."""

    def draw(low, high):
        return torch.empty(len(images), 1, 1, 1).uniform_(low, high, generator=generator).to(images.device)

    images = torch.where(draw(0, 1) < 0.5, images.flip(3), images)
    images = (images * draw(0.8, 1.2) + draw(-0.15, 0.15)).clamp(-1, 1)
    blurred = F.interpolate(
        F.interpolate(images, scale_factor=0.5, mode="area"), size=images.shape[2:], mode="bilinear"
    )
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return torch.lerp(images, blurred, (draw(-1, 1)).clamp(0)) + draw(-0.1, 0.1).clamp(0) * noise


@torch.no_grad()
def evaluate(judge, loader, device):
    """F1 of each class and their mean, at the threshold one half: {class: F1}, macro F1."""
    seen, true = [], []
    for images, labels in tqdm(loader, desc="held-out scenes", leave=False):
        seen.append(judge(images.to(device).float() / 127.5 - 1).cpu() > 0)
        true.append(labels > 0)
    scores = f1_score(torch.cat(true).numpy(), torch.cat(seen).numpy(), average=None, zero_division=0)
    return dict(zip(CLASSES, scores.tolist(), strict=True)), scores.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="checkpoints/judge", help="the judge goes here (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=20000, help="training scenes (default: %(default)s)")
    parser.add_argument("--held_out", type=int, default=2000, help="test scenes (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes, the weights and the augmentation")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() - 1, help="painting processes")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    judge = Judge(CLASSES).to(device, memory_format=torch.channels_last)  # 1.4 times as fast on a CPU
    optimizer = torch.optim.AdamW(judge.parameters(), lr=args.lr, weight_decay=0.01)
    steps = args.scenes // args.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=steps, pct_start=0.1)

    # Resume
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint, done = output_dir / "training.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        judge.load_state_dict(state["judge"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = state["step"]

    # Train
    paintings = Paintings("train", args.seed, done * args.batch_size, steps * args.batch_size)
    loader = DataLoader(paintings, args.batch_size, num_workers=args.num_workers)
    progress = tqdm(loader, initial=done, total=steps, desc="judge")
    for step, (images, labels) in enumerate(progress, start=done):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        images = augment(images.to(device).float() / 127.5 - 1, generator).to(memory_format=torch.channels_last)
        loss = F.binary_cross_entropy_with_logits(judge(images), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.4f}")
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {"judge": judge.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"schedule": schedule.state_dict(), "step": step + 1}, f"{checkpoint}.new")
            os.replace(f"{checkpoint}.new", checkpoint)

    # Judge the judge
    judge.eval()
    judge.save_pretrained(output_dir)
    held_out = DataLoader(Paintings("test", args.seed, 0, args.held_out), 64, num_workers=args.num_workers)
    scores, macro = evaluate(judge, held_out, device)
    for name, score in sorted(scores.items(), key=lambda item: item[1]):
        print(f"{name:12s} F1 {score:.3f}")
    print(f"macro F1 {macro:.4f} on {args.held_out} held-out scenes; the judge is in {output_dir}")


if __name__ == "__main__":
    main()
