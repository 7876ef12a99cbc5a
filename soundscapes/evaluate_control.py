"""Measures whether sources draw where they may, and whether maps show which source drew what.

Held-out scenes of two events, e.g. a dog and a bell. Masks: the signals of one event are confined to the left half of
the picture, those of the other to the right; the judge looks at each half alone. Maps: the judge finds the place of
each event by occlusion, and the map of that event's signal is looked up there. OUTPUT_DIR gets control.md and .json.
Interrupted, it goes on.

    python soundscapes/evaluate_control.py
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur
from tqdm import tqdm

from macs.attention import check_source_masks
from macs.files import fingerprint, write_beside
from macs.loading import load_pipeline, weight_files
from macs.losses import si_sdr_improvement
from macs.script import run
from soundscapes.judge import Judge
from soundscapes.scenes import make_scene
from soundscapes.sound.recipes import EVENTS
from soundscapes.training import DEVICE
from soundscapes.variants import SCENE_SEED

BOXES = ((0, 0, 0.5, 1), (0.5, 0, 1, 1))  # of the first event and of the second: the left and the right half
WINDOW, STRIDE = 32, 8  # pixels; of the occlusion
# the masks' conditions: no masks, each event's best signal masked, all signals masked by the best sums of signals with
# the stems, all signals masked by which of the two names CLAP prefers for them
ASSIGNMENTS = ("none", "best", "all", "names")


def two_events(number):
    """A held-out scene of two events; it depends on its number alone."""
    labels = np.random.default_rng([SCENE_SEED, number]).permutation(list(EVENTS))[:2].tolist()
    return make_scene("test", number, SCENE_SEED, labels=labels)


def best_signals(sources, stems):
    """The signal (M, T) most like each stem (S, T), by SI-SDR: a list of S indices, no two alike for S = 2."""
    similarity = F.normalize(sources, dim=-1) @ F.normalize(stems, dim=-1).T  # (M, S)
    pairs = [(a, b) for a, b in product(range(len(sources)), repeat=2) if a != b]
    return list(max(pairs, key=lambda pair: similarity[pair[0], 0] ** 2 + similarity[pair[1], 1] ** 2))


def best_sums(sources, stems):
    """The event (0 or 1) of each signal, such that the two sums of signals are nearest to the stems."""
    choices = torch.tensor(list(product((0, 1), repeat=len(sources))))  # (2^M, M)
    sums = F.one_hot(choices).float().transpose(1, 2) @ sources  # (2^M, 2, T)
    return choices[(sums - stems).square().sum((1, 2)).argmin()].tolist()


def names_heard(pipe, embeds, labels):
    """The event (0 or 1) whose name CLAP prefers for each signal's embedding (M, D)."""
    texts = pipe.clap.encode_text([f"The sound of {label}" for label in labels], pipe.clap_tokenizer)
    return (embeds @ texts.T).argmax(-1).tolist()


def seen_in_halves(judge, image, classes):
    """Whether the judge sees the first class in the left half of (3, H, W) and the second in the right: [bool, bool].

    It gets each half with its mirror image in place of the other, so that nothing of the other half is to be seen.
    """
    left, right = image.chunk(2, dim=2)
    halves = torch.stack([torch.cat([left, left.flip(2)], 2), torch.cat([right.flip(2), right], 2)])
    return [bool(logits[kind] > 0) for logits, kind in zip(judge(halves), classes, strict=True)]


def occlusion(judge, image, classes):
    """The window that the judge needs most for each class: [(top, left) in pixels].

    A window (32 × 32, every 8 pixels) is occluded by the strongly blurred picture; the place is where that lowers the
    class's logit most.
    """
    blurred = gaussian_blur(image, 63, 16.0)
    places = list(product(range(0, image.shape[1] - WINDOW + 1, STRIDE), range(0, image.shape[2] - WINDOW + 1, STRIDE)))
    occluded = image.repeat(len(places), 1, 1, 1)
    for picture, (top, left) in zip(occluded, places, strict=True):
        window = (slice(None), slice(top, top + WINDOW), slice(left, left + WINDOW))
        picture[window] = blurred[window]
    logits = torch.cat([judge(part) for part in occluded.split(32)])
    return [places[int(logits[:, kind].argmin())] for kind in classes]


def largest_there(maps, place):
    """The source whose map (M, H, W) has the largest mean in the window at a place."""
    top, left = place
    return int(maps[:, top : top + WINDOW, left : left + WINDOW].mean((1, 2)).argmax())


@torch.no_grad()
def measure(pipe, judge, number, steps):
    """One scene: {"improvement": dB, "halves": {assignment: [bool, bool]}, "whole": the same of the whole picture,
    "maps": {kind: [per event that is seen: (best signal is largest, one of the event's is largest)]}}."""
    scene = two_events(number)
    stems = torch.from_numpy(scene.stems).to(DEVICE)
    classes = [judge.config.classes.index(label) for label in scene.labels]
    sources = pipe.separate(torch.from_numpy(scene.mixture)[None])
    embeds = pipe.encode_sources(sources)
    best, sums = best_signals(sources[0], stems), best_sums(sources[0], stems)
    assigned = {"none": {}, "best": dict(zip(best, BOXES, strict=True))}
    for name, events in (("all", sums), ("names", names_heard(pipe, embeds[0], scene.labels))):
        assigned[name] = {signal: BOXES[event] for signal, event in enumerate(events)}

    def generator():
        return torch.Generator().manual_seed(number)

    boxes = [check_source_masks(assigned[name], pipe.num_sources, 128, 128) for name in ASSIGNMENTS]
    settings = {"num_inference_steps": steps, "output_type": "pt"}
    out = pipe(
        source_embeds=embeds.expand(len(boxes), -1, -1), source_masks=torch.cat(boxes), output_maps=True,
        generator=[torch.Generator().manual_seed(number) for _ in boxes], **settings,
    )  # fmt: skip
    found = {"improvement": si_sdr_improvement(sources, stems[None]).item(), "halves": {}, "whole": {}, "maps": {}}
    images, shares = out.images.float() * 2 - 1, out.source_maps[0]
    for name, image, logits in zip(ASSIGNMENTS, images, judge(images), strict=True):
        found["halves"][name] = seen_in_halves(judge, image, classes)
        found["whole"][name] = [bool(logits[kind] > 0) for kind in classes]
    influence = pipe.influence(source_embeds=embeds, generator=torch.Generator().manual_seed(number), **settings).maps[
        0
    ]
    places = occlusion(judge, images[0], classes)
    kinds = {
        "attention": shares,
        "attention, each source relative to its mean": shares / shares.mean((1, 2), keepdim=True).clamp(min=1e-6),
        "influence": influence,
        "influence, each source relative to its mean": influence / influence.mean((1, 2), keepdim=True).clamp(min=1e-6),
    }
    for kind, maps in kinds.items():
        largest = [largest_there(maps, place) for place in places]
        found["maps"][kind] = [
            (source == best[event], sums[source] == event)
            for event, source in enumerate(largest)
            if found["whole"]["none"][event]
        ]
    found["detail"] = {"labels": scene.labels, "best": best, "sums": sums, "places": places}
    return found


def table(scenes):
    """The results of `measure` as markdown."""

    def share(values):
        values = list(values)
        return f"{np.mean(values):.2f}" if values else "–"

    lines = ["| masks | each event seen in its half | both | each event seen anywhere |", "|---|---|---|---|"]
    for name in ASSIGNMENTS:
        halves = [scene["halves"][name] for scene in scenes]
        whole = [seen for scene in scenes for seen in scene["whole"][name]]
        lines.append(f"| {name} | {share(np.ravel(halves))} | {share(map(all, halves))} | {share(whole)} |")
    lines += ["", "| maps | one of the event's signals is the largest | its best signal is | both events: one of its |"]
    lines += ["|---|---|---|---|"]
    for kind in scenes[0]["maps"]:
        events = [event for scene in scenes for event in scene["maps"][kind]]
        best, one = ([event[i] for event in events] for i in (0, 1))
        both = [all(one for _, one in scene["maps"][kind]) for scene in scenes if len(scene["maps"][kind]) == 2]
        lines.append(f"| {kind} | {share(one)} | {share(best)} | {share(both)} |")
    return "\n".join(lines) + "\n"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="the pipeline (default: %(default)s)")
    parser.add_argument("--judge", default="tests/judge", help="(default: %(default)s)")
    parser.add_argument("--output_dir", default="checkpoints/tiny/control", help="results (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (default: %(default)s)")
    return parser.parse_args()


def main():
    args = parse_arguments()
    pipe = load_pipeline(args.model_dir).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    judge = Judge.from_pretrained(args.judge).float().to(DEVICE).eval()
    known = fingerprint({"steps": args.steps}, weight_files(args.model_dir) + weight_files(args.judge))
    path = Path(args.output_dir) / "control.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    scenes = saved["scenes"][: args.scenes] if saved.get("fingerprint") == known else []
    for number in tqdm(range(len(scenes), args.scenes), desc="scenes"):
        scenes.append(measure(pipe, judge, number, args.steps))
        with write_beside(path) as partial:
            partial.write_text(json.dumps({"fingerprint": known, "scenes": scenes}), encoding="utf-8")
    with write_beside(path.with_suffix(".md")) as partial:
        partial.write_text(table(scenes), encoding="utf-8")
    print(table(scenes))


if __name__ == "__main__":
    run(main)
