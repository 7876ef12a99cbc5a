"""Trains the embedded model's CLAP on captioned scenes: python scripts/train_tiny_clap.py --model_dir asset/macs-tiny

Takes MODEL_DIR/clap as scripts/make_tiny.py made it and puts the trained one in its place. Resumes when run again.
"""

import argparse
import os
import sys
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from macs import ClapEncoder
from macs.data.soundscapes import CLASSES, caption, make_scene
from macs.data.synthesis import noise
from scripts.tiny_training import DEVICE, fresh_batches, save_part, train


@lru_cache(maxsize=1)
def scene_of(seed, index):
    """A scene, made once for the two clips that follow each other."""
    return make_scene("train", index, seed)


def captioned_clip(seed, index):
    """A clip (128000,), its caption, and its set of classes as an integer (one bit each).

    Of every scene first the mixture, then what the separator will hand on: one source with the others leaking in at
    -10 to -40 dB, or now and then nothing but noise. Loudness varies by 20 dB.
    """
    scene, rng = scene_of(seed, index // 2), np.random.default_rng([seed, index])
    labels, clip = scene.labels, scene.mixture
    if index % 2 and rng.random() < 0.1:
        labels, clip = [], 0.02 * noise(rng, rng.uniform(50, 1000), rng.uniform(2000, 7900), rng.uniform(-1, 5))
    elif index % 2:
        heard = rng.integers(len(labels))
        leak = 10 ** (-rng.uniform(10, 40) / 20)
        labels, clip = [labels[heard]], scene.stems[heard] + leak * (clip - scene.stems[heard])
    clip = clip * 10 ** (-rng.uniform(0, 20) / 20) + 10 ** -rng.uniform(3.5, 6) * rng.standard_normal(len(clip))
    text = caption(labels, rng) if labels else "The sound of Noise"
    return torch.from_numpy(clip.astype(np.float32)), text, sum(1 << CLASSES.index(name) for name in labels)


def contrastive_loss(audio, text, classes, logit_scale):
    """CLAP's symmetric cross entropy; clips of the same classes (N,) count as each other's match too.

    audio, text (N, D), unit norm; with one to three sources of nineteen classes a batch holds many such clips.
    """
    matches = (classes[:, None] == classes[None]).float()
    logits = logit_scale.exp() * audio @ text.T
    return 0.5 * sum(F.cross_entropy(rows, matches / matches.sum(1, keepdim=True)) for rows in (logits, logits.T))


def naming_loss(audio, named, classes, logit_scale):
    """Cross entropy of clips towards the names of their sources: audio (N, D), named (C + 1, D), the last is "Noise".

    A batch of captions holds each class a few times only; all the names in every step make a small CLAP learn several
    times as fast.
    """
    bits = 2 ** torch.arange(len(named) - 1, device=classes.device)
    there = (classes[:, None] & bits) > 0
    target = torch.cat([there, ~there.any(1, keepdim=True)], dim=1).float()
    return F.cross_entropy(logit_scale.exp() * audio @ named.T, target / target.sum(1, keepdim=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="its clap/ is trained (default: %(default)s)")
    parser.add_argument("--output_dir", default="checkpoints/tiny", help="the training's state (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=50000, help="two clips of each (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast: faster on GPUs, and CPUs that have it")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and dropout")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() - 1, help="synthesising processes")
    args = parser.parse_args()

    clap = ClapEncoder.from_pretrained(args.model_dir, subfolder="clap", dtype=torch.float32).to(DEVICE)
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir, subfolder="clap_tokenizer")
    names = [f"The sound of {name}" for name in [*CLASSES, "Noise"]]

    def loss_of(batch):
        clips, texts, classes = batch
        audio, text = clap.encode_audio(clips.to(DEVICE)), clap.encode_text([*texts, *names], tokenizer)
        text, named = text.float().split([len(texts), len(names)])
        classes = classes.to(DEVICE)
        return contrastive_loss(audio.float(), text, classes, clap.logit_scale_a) + naming_loss(
            audio.float(), named, classes, clap.logit_scale_t
        )

    steps = 2 * args.scenes // args.batch_size
    batches = fresh_batches(partial(captioned_clip, args.seed), args.batch_size, steps, args.num_workers)
    train("clap", {"clap": clap}, batches, loss_of, steps, args.lr, args.output_dir, args.seed, args.bf16)

    # Which of «The sound of <class>» is nearest to a held-out source?
    with torch.no_grad():
        texts = clap.encode_text(names[:-1], tokenizer)
        scenes = [make_scene("val", index, args.seed, num_sources=1) for index in range(20 * len(CLASSES))]
        clips = torch.from_numpy(np.stack([scene.mixture for scene in scenes]))
        nearest = torch.cat(
            [(clap.encode_audio(part.to(DEVICE)) @ texts.T).argmax(1).cpu() for part in clips.split(32)]
        )
    right = np.mean([CLASSES[n] == scene.labels[0] for n, scene in zip(nearest.tolist(), scenes, strict=True)])
    save_part(clap, args.model_dir, "clap")
    print(f"clap: names {right:.1%} of {len(scenes)} held-out sources")


if __name__ == "__main__":
    main()
