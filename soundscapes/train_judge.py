"""Trains the judge, a classifier of painted scenes, and prints its F1 on held-out ones.

The scenes are painted while it trains, each of them once. Interrupted, it goes on from its last checkpoint and ends in
the same weights.
"""

from functools import partial

import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from macs.options import integer
from macs.script import run
from soundscapes.judge import Judge
from soundscapes.scenes import CLASSES, make_scene
from soundscapes.training import DEVICE, Items, fresh_batches, train, training_parser


def labelled_painting(split, seed, index):
    """A scene's picture (3, 128, 128) in [-1, 1] and its labels (19,) of 0 and 1."""
    scene = make_scene(split, index, seed)
    return torch.from_numpy(scene.pixels), torch.tensor([float(name in scene.labels) for name in CLASSES])


def augment(images):
    """Mirrors, dims, blurs and roughens pictures (B, 3, H, W) in [-1, 1], as a decoder's flaws would."""

    def draw(low, high):
        return torch.empty(len(images), 1, 1, 1, device=images.device).uniform_(low, high)

    images = torch.where(draw(0, 1) < 0.5, images.flip(3), images)
    images = (images * draw(0.8, 1.2) + draw(-0.15, 0.15)).clamp(-1, 1)
    half = F.interpolate(images, scale_factor=0.5, mode="area")
    blurred = F.interpolate(half, size=images.shape[2:], mode="bilinear")
    images = torch.lerp(images, blurred, draw(-1, 1).clamp(0))  # half of them stay sharp, half without noise
    return images + draw(-0.1, 0.1).clamp(0) * torch.randn_like(images)


@torch.no_grad()
def class_scores(judge, loader):
    """F1 of each class (classes,) at the threshold one half, over a loader of pictures and labels."""
    seen, true = [], []
    for images, labels in tqdm(loader, desc="held-out scenes", leave=False):
        seen.append(judge(images.to(DEVICE)).cpu() > 0)
        true.append(labels > 0)
    return f1_score(torch.cat(true).numpy(), torch.cat(seen).numpy(), average=None, zero_division=0)


def main():
    parser = training_parser(__doc__, scenes=20000, batch_size=32, lr=2e-3, output_dir="checkpoints/judge")
    parser.add_argument("--held_out", type=integer(1), default=2000, help="test scenes")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    judge = Judge(CLASSES).to(DEVICE, memory_format=torch.channels_last)  # 1.4 times as fast on a CPU

    def loss_of(batch):
        images, labels = batch
        images = augment(images.to(DEVICE)).to(memory_format=torch.channels_last)
        return F.binary_cross_entropy_with_logits(judge(images), labels.to(DEVICE))

    steps = args.scenes // args.batch_size
    batches = fresh_batches(partial(labelled_painting, "train", args.seed), args.batch_size, steps, args.num_workers)
    train("judge", {"judge": judge}, batches, loss_of, steps, args.lr, args.output_dir, args.seed)
    judge.save_pretrained(args.output_dir)

    held_out = Items(partial(labelled_painting, "test", args.seed), 0, args.held_out)
    scores = class_scores(judge, DataLoader(held_out, 64, num_workers=args.num_workers))
    for score, name in sorted(zip(scores, CLASSES, strict=True)):
        print(f"{name:12s} F1 {score:.3f}")
    print(f"macro F1 {scores.mean():.4f} on {args.held_out} held-out scenes; the judge is in {args.output_dir}")


if __name__ == "__main__":
    run(main)
