"""Measures the rows that scripts/ablate.sh has trained, on held-out soundscapes; writes one table and one figure.

WORK_DIR/ROW/stage_two/adapter is drawn with; WORK_DIR gets ablation.md, .csv, .json and .png. What was computed is kept
in WORK_DIR/measured under the fingerprint of its weights and settings, so that a second call goes on where it was.

Every row draws the same scenes from the same noise. F1: macro F1 of the classes that the judge sees in the pictures.
SI-SDR improvement: of scenes with two sources, over the mixture. Intervals: 95%, from resamples of the scenes, the
same for all rows, so that differences are paired. They hold for these weights: what another seed of the training would
change is not in them.
"""

import argparse
import csv
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from macs.files import fingerprint, write_beside
from macs.loading import load_pipeline, weight_files
from macs.options import integer, number
from macs.released import CheckpointError
from macs.script import run
from soundscapes.judge import Judge
from soundscapes.training import DEVICE, Items
from soundscapes.variants import encode_scenes, generate_variant, held_out, held_out_scene, picture_scores

COUNTS = (1, 2, 3)  # sources in a scene
RESAMPLES = 1000


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", required=True, metavar="ROW", help="names in WORK_DIR; the first is what they differ from")
    add("--work_dir", type=Path, default=Path("checkpoints/ablation"), help="of ablate.sh (default: %(default)s)")
    add("--sd_path", default="asset/macs-tiny", help="the pipeline they were trained with (default: %(default)s)")
    add("--judge", default="tests/judge", help="(default: %(default)s)")
    add("--scenes", type=integer(2), default=40, help="of each number of sources (default: %(default)s)")
    add("--steps", type=integer(1), default=20, help="of the sampler (default: %(default)s)")
    add("--guidance_scale", type=number(0), default=7.5, help="(default: %(default)s)")
    add("--seed", type=integer(0), default=0, help="of scenes, noise and resamples (default: %(default)s)")
    add("--batch_size", type=integer(1), default=20, help="(default: %(default)s)")
    add("--num_workers", type=integer(0), default=os.cpu_count() - 1, help="processes that make the scenes")
    add("--mixed_precision", choices=("no", "bf16"), default="no", help="of the generator")
    return parser.parse_args(arguments)


def title_of(row):
    if row == "full":
        return "full (M = 6)"
    return f"M = {row[1:]}" if row[1:].isdigit() else row.replace("_", " ")


def measure(args, row, judge):
    """A row's {1: {...}, 2: {...}, 3: {...}}: by number of sources {"seen", "labels" (N, 19), "frames", "features"
    (N, F), "improvement", "single" (N,), "images" of the first scenes}."""
    folder = args.work_dir / row
    settings = {name: getattr(args, name) for name in ("scenes", "steps", "guidance_scale", "seed", "mixed_precision")}
    weights = [args.sd_path, args.judge, folder / "stage_two" / "adapter", folder / "stage_one" / "separator"]
    name = f"{row}-{fingerprint(settings, [file for path in weights for file in weight_files(path)])}"
    pipe, measured = None, {}
    for k in COUNTS:
        path = args.work_dir / "measured" / f"{name}-{k}.safetensors"
        if not path.exists():
            if pipe is None:
                dtype = {"no": torch.float32, "bf16": torch.bfloat16}[args.mixed_precision]
                pipe = load_pipeline(args.sd_path, folder / "stage_two" / "adapter", dtype=dtype).to(DEVICE)
                pipe.set_progress_bar_config(disable=True)
            items = Items(partial(held_out, args.seed, k), 0, args.scenes)
            encoded = encode_scenes(pipe, judge, DataLoader(items, args.batch_size, num_workers=args.num_workers))
            captions = [held_out_scene(args.seed, k, i).caption for i in range(args.scenes)]
            drawn = generate_variant("macs", pipe, judge, encoded, captions, args.seed * 3 + k, args.batch_size,
                                     args.steps, args.guidance_scale)  # fmt: skip
            kept = {name: encoded[name] for name in ("labels", "frames", "improvement", "single")} | drawn
            with write_beside(path) as partial_path:
                save_file({name: value.contiguous() for name, value in kept.items()}, partial_path)
        measured[k] = load_file(path)
        with torch.no_grad():
            measured[k]["seen"] = judge.head(measured[k]["features"].to(DEVICE)).cpu() > 0
    return measured


def macro_f1(seen, labels, weights):
    """Macro F1 (R,) of what is seen, (N, L) of bool, by scenes that count `weights` (R, N) times.

    A class that is nowhere, neither in the labels nor seen, is left out of a mean.
    """
    seen, labels = seen.numpy().astype(float), labels.numpy().astype(float)
    right, either = weights @ (seen * labels), weights @ (seen + labels)
    return np.nanmean(np.divide(2 * right, either, out=np.full_like(right, np.nan), where=either > 0), axis=1)


def resamples(count, seed):
    """How often each of `count` scenes counts: once in the first row, then in RESAMPLES draws with replacement."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return np.concatenate([np.ones((1, count)), drawn])


def summarise(measured, judge, seed):
    """{row: {number: (value, low, high)}} of {row: what `measure` gives}: F1 by sources and of all ("f1"), the
    difference of that from the first row's ("difference"), SI-SDR improvements ("sum", "single"), all with their 95%
    interval, and the Fréchet distance ("frechet_distance"), a number. What is undefined is None."""

    def estimate(values):
        if not np.isfinite(values).all():
            return None
        return tuple(map(float, (values[0], *np.quantile(values[1:], (0.025, 0.975)))))

    results, first = {}, None
    for row, of_row in measured.items():
        weights = {k: resamples(len(of_row[k]["labels"]), seed + k) for k in COUNTS}
        of_all = {
            name: torch.cat([of_row[k][name] for k in COUNTS]) for name in ("seen", "labels", "features", "frames")
        }
        f1 = macro_f1(of_all["seen"], of_all["labels"], np.concatenate([weights[k] for k in COUNTS], axis=1))
        first = f1 if first is None else first
        results[row] = {
            f"f1_{k}": estimate(macro_f1(of_row[k]["seen"], of_row[k]["labels"], weights[k])) for k in COUNTS
        }
        results[row] |= {"f1": estimate(f1), "difference": None if first is f1 else estimate(f1 - first)}
        scores = picture_scores(judge, of_all["features"], of_all["frames"], of_all["labels"])
        results[row]["frechet_distance"] = scores["frechet_distance"]
        for name, of in (("sum", "improvement"), ("single", "single")):
            results[row][name] = estimate(weights[2] @ of_row[2][of].double().numpy() / len(of_row[2][of]))
    return results


COLUMNS = {
    "f1_1": "F1 ↑, 1 source", "f1_2": "2 sources", "f1_3": "3 sources", "f1": "all", "difference": "difference",
    "frechet_distance": "Fréchet distance ↓", "sum": "SI-SDR improvement ↑, dB, best sums", "single": "best signals",
}  # fmt: skip


def markdown(results, note):
    """The table of `summarise`'s results as Markdown, the 95% intervals in brackets, and the note below it."""

    def cell(name, value):
        if value is None:
            return "–"
        digits, sign = (1, "") if name in ("sum", "single") else (2, "+" if name == "difference" else "")
        if name == "frechet_distance":
            return f"{value:.0f}"
        shown = f"{value[0]:{sign}.{digits}f}"
        return f"{shown} [{value[1]:{sign}.{digits}f}, {value[2]:{sign}.{digits}f}]"

    head = "| | " + " | ".join(COLUMNS.values()) + " |"
    lines = [head, "|---" * (len(COLUMNS) + 1) + "|"]
    for row, of_row in results.items():
        lines.append(f"| {title_of(row)} | " + " | ".join(cell(name, of_row[name]) for name in COLUMNS) + " |")
    return "\n".join([*lines, "", f"*{note}*", ""])


def write_csv(path, results):
    """One line for each row, three columns (value, low, high) for what has an interval; what is undefined is empty."""
    with write_beside(path) as partial_path, open(partial_path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        parts = [[name] if name == "frechet_distance" else [name, f"{name}_low", f"{name}_high"] for name in COLUMNS]
        writer.writerow(["row", *sum(parts, [])])
        for row, of_row in results.items():
            cells = []
            for name, part in zip(COLUMNS, parts, strict=True):
                value = of_row[name]
                cells += [""] * len(part) if value is None else list(np.atleast_1d(value))
            writer.writerow([row, *cells])


def draw_figure(results, pictures, scenes):
    """A line for each row: F1 by number of sources, SI-SDR improvement, and its pictures of three scenes.

    pictures: {row: [picture (3, H, W) in [-1, 1] of each scene]}; scenes: [(labels, the scene's own picture)].
    Returns a matplotlib Figure.
    """
    rows = len(results)
    figure = Figure(figsize=(13, 1.9 + 1.05 * rows))
    grid = figure.add_gridspec(
        rows + 1, 2 + len(scenes), width_ratios=[3.2, 2.9] + [0.95] * len(scenes), hspace=0.06, wspace=0.1,
        left=0.13, right=0.99, top=0.95, bottom=0.45 / (1.9 + 1.05 * rows),
    )  # fmt: skip
    f1, separation = (figure.add_subplot(grid[1:, column]) for column in (0, 1))
    for y, of_row in enumerate(results.values()):
        for k, colour in zip(COUNTS, ("#9ecae1", "#4292c6", "#084594"), strict=True):
            value, low, high = of_row[f"f1_{k}"]
            place, label = y + 0.22 * (k - 2), f"{k} source{'s' * (k > 1)}" if y == 0 else None
            f1.plot((low, high), (place, place), color=colour, linewidth=2, solid_capstyle="butt")
            f1.plot(value, place, "o", color=colour, markersize=7, label=label)
        for shift, name, colour in ((-0.13, "sum", "#d94801"), (0.13, "single", "#fdae6b")):
            if of_row[name] is None:
                continue
            value, low, high = of_row[name]
            label = {"sum": "best sums of signals", "single": "best single signals"}[name]
            separation.plot((low, high), (y + shift, y + shift), color=colour, linewidth=2, solid_capstyle="butt")
            known = separation.get_legend_handles_labels()[1]
            separation.plot(value, y + shift, "o", color=colour, markersize=7, label=None if label in known else label)
        if of_row["sum"] is None:
            separation.text(0, y, "  no separation", va="center", color="0.45", fontsize=9)
    f1.set_yticks(range(rows), [title_of(row) for row in results], fontsize=11)
    f1.set_title("what the pictures show: macro F1 ↑", fontsize=11, pad=34, loc="left")
    separation.set_title("two sources: SI-SDR improvement ↑, dB", fontsize=11, pad=34, loc="left")
    separation.axvline(0, color="0.8", linewidth=1, zorder=0)
    for axes in (f1, separation):
        axes.set_ylim(rows - 0.5, -0.5)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        for y in range(rows - 1):
            axes.axhline(y + 0.5, color="0.9", linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3, frameon=False, fontsize=9,
                        handletextpad=0.1, columnspacing=1)  # fmt: skip
    separation.tick_params(labelleft=False)

    for column, (labels, own) in enumerate(scenes):
        for line, picture in enumerate([own, *[of_row[column] for of_row in pictures.values()]]):
            axes = figure.add_subplot(grid[line, 2 + column])
            axes.imshow(((torch.as_tensor(picture) + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy())
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if line == 0:
                axes.set_title(", ".join(labels), fontsize=9)
            if line == 0 and column == 0:
                axes.set_ylabel("the scene's own", fontsize=8)
    return figure


def main():
    args = parse_args()
    try:
        judge = Judge.from_pretrained(args.judge).to(DEVICE).eval()
        measured = {}
        for row in args.rows:
            print(f"measuring {title_of(row)}", flush=True)
            measured[row] = measure(args, row, judge)
    except (CheckpointError, OSError) as error:
        sys.exit(f"ablation.py: {error}")
    results = summarise(measured, judge, args.seed)
    note = (
        f"{args.scenes} held-out scenes of each number of sources, {args.steps} steps; [95% intervals] over the "
        f"scenes, not over trainings; difference: of all scenes' F1 from {title_of(args.rows[0])}, paired; SI-SDR: of "
        "the scenes with two sources"
    )
    text = markdown(results, note)
    for name, content in (
        ("md", text),
        ("json", json.dumps({"settings": vars(args), "rows": results}, indent=2, default=str)),
    ):
        with write_beside(args.work_dir / f"ablation.{name}") as path:
            path.write_text(content, encoding="utf-8")
    write_csv(args.work_dir / "ablation.csv", results)
    scenes = [held_out_scene(args.seed, k, 0) for k in COUNTS]
    pictures = {row: [of_row[k]["images"][0] for k in COUNTS] for row, of_row in measured.items()}
    with write_beside(args.work_dir / "ablation.png") as path:
        draw_figure(results, pictures, [(scene.labels, scene.pixels) for scene in scenes]).savefig(path, dpi=110)
    print(text)
    print(f"Written: {args.work_dir}/ablation.md, .csv, .json, .png")


if __name__ == "__main__":
    run(main)
