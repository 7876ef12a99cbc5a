"""The embedded model before real recordings: what the judge sees in pictures of one sound, and of two at once."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from macs.audio import load_clip
from soundscapes.scenes import CLASSES
from soundscapes.sound.recipes import AMBIENCES
from soundscapes.sound.recordings import NOISE, label_of, read_table
from soundscapes.training import DEVICE
from soundscapes.variants import generate

LEVEL = 0.06  # RMS of a recording of a pair, where it sounds


def single_recordings(folder, split="test"):
    """[(labels, clip (T,))] of all recordings of a split, as inference.py takes them; [] are those of NOISE."""
    rows = [row for row in read_table(folder) if row["split"] == split]
    names = [label_of(row) for row in rows]
    clips = [load_clip(Path(folder) / row["filename"]) for row in rows]
    return [([] if name == NOISE else [name], clip) for name, clip in zip(names, clips, strict=True)]


def pairs_of(recordings, count, seed=0):
    """`count` mixtures of two recordings of different classes, as loud as each other: [(labels, clip (T,))].

    As in the scenes, one of the two at most is an ambience. Classes are equally likely, then the recordings of one.
    """
    rng = np.random.default_rng(seed)
    by_class = {}
    for labels, clip in recordings:
        for label in labels:
            by_class.setdefault(label, []).append(levelled(clip))
    names = sorted(by_class)
    if sum(name not in AMBIENCES for name in names) < 1 or len(names) < 2:
        return []
    pairs = []
    while len(pairs) < count:
        labels = rng.choice(names, 2, replace=False).tolist()
        chosen = [by_class[label][rng.integers(len(by_class[label]))] for label in labels]
        if not set(labels) <= set(AMBIENCES):
            mixture = chosen[0] + chosen[1]
            pairs.append((labels, mixture * min(1, 0.95 / mixture.abs().max().item())))
    return pairs


def levelled(clip):
    """A clip (T,) with the RMS of LEVEL where it sounds, not counting the silence after a short one."""
    power = clip.unfold(0, 1600, 1600).square().mean(1)
    return clip * (LEVEL / power[power > 1e-3 * power.max()].mean().sqrt())


@torch.no_grad()
def seen_in(pipe, judge, clips, *, mixture, num_seeds, num_steps, guidance_scale, batch_size):
    """What the judge sees in pictures of clips [(T,)]: (num_seeds, N, C) bool.

    mixture: the pipeline is one that hears the mixture as a whole. Picture number n has the same noise in both.
    """
    seen = []
    for start in tqdm(range(0, len(clips), batch_size), desc="real recordings", leave=False):
        batch = torch.stack(clips[start : start + batch_size]).to(DEVICE)
        embeds = pipe.clap.encode_audio(batch)[:, None] if mixture else pipe.encode_audio(batch)
        for seed in range(num_seeds):
            seeds = [seed * 1_000_003 + number for number in range(start, start + len(batch))]
            pictures = generate(pipe, seeds, num_steps, guidance_scale, source_embeds=embeds)
            seen.append((seed, judge(pictures).cpu() > 0))
    return torch.stack([torch.cat([part for of, part in seen if of == seed]) for seed in range(num_seeds)])


def scores(seen, labels):
    """{"seen", "by_class", "things", "both", "f1"} of pictures seen (S, N, C), and F1 of each clip (N,).

    labels: [labels of each clip]. seen: the share of the sources that are seen; by_class: the mean of this over the
    classes; things: how many classes are seen in a picture; both: the share of the pictures that show all sources; f1:
    the mean over the pictures of 2·hits / (seen + sources). Clips of no known class have `things` alone.
    """
    truth = torch.tensor([[name in of for name in CLASSES] for of in labels])  # (N, C)
    known = truth.any(1)
    things = seen.sum(2).float()  # (S, N)
    result = {"things": things.mean().item()}
    hits = (seen & truth).sum(2).float()
    f1 = (2 * hits / (things + truth.sum(1)).clamp(min=1)).mean(0)  # (N,)
    if known.any():
        present = truth.any(0)
        per_class = (seen & truth).float().mean(0).sum(0)[present] / truth.sum(0)[present]
        result |= {
            "seen": (hits.mean(0)[known].sum() / truth.sum()).item(),
            "by_class": per_class.mean().item(),
            "both": (hits[:, known] == truth[known].sum(1)).float().mean().item(),
            "f1": f1[known].mean().item(),
        }
    return result, f1


def interval(differences, seed=0):
    """Mean of differences (N,) and its 95% interval, by drawing the clips 10,000 times anew: (mean, low, high)."""
    values = np.asarray(differences, np.float64)
    draws = np.random.default_rng(seed).integers(len(values), size=(10_000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def measure(pipe, baseline, judge, folder, *, num_pairs, **sampling):
    """{"macs", "mixture": {"one", "none", "pairs": scores}, "lead": (mean, low, high)}; None, no baseline: MACS alone.

    one: recordings of the world's classes, none: of other sounds, pairs: two of the first at once. sampling: of
    `seen_in`. Raises AudioError where the folder or one of its files cannot be read.
    """
    recordings = single_recordings(folder)
    groups = {
        "one": [item for item in recordings if item[0]],
        "none": [item for item in recordings if not item[0]],
        "pairs": pairs_of(recordings, num_pairs),
    }
    results, f1 = {}, {}
    for name, model in {"macs": pipe, "mixture": baseline}.items():
        for group, items in groups.items() if model else ():
            labels, clips = zip(*items, strict=True) if items else ((), ())
            if clips:
                seen = seen_in(model, judge, list(clips), mixture=name == "mixture", **sampling)
                results.setdefault(name, {})[group], f1[name, group] = scores(seen, labels)
                results[name][group]["recordings"] = len(clips)
    if baseline and groups["pairs"]:
        results["lead"] = interval(f1["macs", "pairs"] - f1["mixture", "pairs"])
    return results
