"""The embedded model's results as tables and figures (matplotlib Figures, for the caller to save).

results: what `evaluate` of soundscapes/evaluate_tiny.py returns, with its "settings".
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from macs.plots import draw_spectrogram, spectrogram_db

NAMES = {
    "painted": "painted anew (what is possible)",
    "text": "text prompt, no sound",
    "stems": "the true stems",
    "macs": "MACS, M = 6",
    "top3": "MACS, first 3 sources",
    "top2": "MACS, first 2 sources",
    "top1": "MACS, first source",
    "mixture": "without separation",
}
MEASURES = {"f1": ("macro F1 ↑", "F1 ↑", 3), "frechet_distance": ("Fréchet distance ↓", "FD ↓", 1)}
COUNTS = (1, 2, 3)


def _number(values, digits):
    """Mean ± deviation over the seeds; a dash where there is nothing."""
    if not len(values) or not np.isfinite(values).all():
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table_rows(results):
    """The table's rows, the first the head: name, F1 and Fréchet distance for one, two and three sources."""
    head = ["", *(f"{short}, {k} source{'s' * (k > 1)}" for _, short, _ in MEASURES.values() for k in COUNTS)]
    body, variants = [], results["variants"]
    for variant, measured in variants.items():
        cells = [_number(measured[k][name], digits) for name, (_, _, digits) in MEASURES.items() for k in COUNTS]
        body.append([NAMES[variant], *cells])
    f1 = {variant: {k: np.array(measured[k]["f1"]) for k in COUNTS} for variant, measured in variants.items()}
    if {"macs", "mixture"} <= f1.keys():
        lead = [_number(f1["macs"][k] - f1["mixture"][k], 3) for k in COUNTS]
        body.append(["lead of MACS over no separation", *lead, "", "", ""])
    if {"macs", "top3"} <= f1.keys() and all(f1["macs"][k].all() for k in COUNTS):
        kept = [_number(f1["top3"][k] / f1["macs"][k], 3) for k in COUNTS]
        body.append(["share of it that the first 3 keep", *kept, "", "", ""])
    for name, title in {
        "si_sdr_improvement": "SI-SDR improvement of the separation, dB",
        "best_signal_improvement": "that of the best single signals, dB",
    }.items():
        body.append([title, *(_number(results[name].get(k, []), 1) for k in COUNTS), "", "", ""])
    return [head, *body]


def real_rows(results):
    """The rows of the table of real recordings, the first the head; `measure` of soundscapes/real_recordings.py."""
    columns = {
        ("one", "seen"): "one sound: seen",
        ("one", "by_class"): "mean of the classes",
        ("one", "things"): "things seen",
        ("none", "things"): "unknown sound: things seen",
        ("pairs", "seen"): "two at once: seen",
        ("pairs", "both"): "both seen",
        ("pairs", "f1"): "F1",
    }
    rows = [["real recordings", *columns.values()]]
    for variant in ("macs", "mixture"):
        if variant in results:
            values = [results[variant].get(group, {}).get(name) for group, name in columns]
            rows.append([NAMES[variant], *("–" if value is None else f"{value:.3f}" for value in values)])
    if "lead" in results:
        mean, low, high = results["lead"]
        rows.append(["lead over no separation (95% interval)", *[""] * 6, f"{mean:.3f} ({low:.3f} to {high:.3f})"])
    return rows


def _text_and_markdown(table):
    """(plain text, markdown) of rows of cells, the first the head; lists of lines."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    markdown = ["| " + " | ".join(row) + " |" for row in table]
    text.insert(1, "-+-".join("-" * width for width in widths))
    markdown.insert(1, "|" + "---|" * len(table[0]))
    return text, markdown


def tables(results):
    """(plain text, markdown) of the results."""
    settings = results["settings"]
    note = (
        "F1: macro F1 of the classes that the judge sees in the pictures; FD: Fréchet distance in its features; ± is "
    )
    note += "the deviation over the seeds; " + ", ".join(f"{name} {value}" for name, value in settings.items())
    text, markdown = [note, ""], []
    for table in [table_rows(results), *([real_rows(results["real"])] if "real" in results else [])]:
        for lines, added in zip((text, markdown), _text_and_markdown(table), strict=True):
            lines += [*added, ""]
    return "\n".join(text), "\n".join([*markdown, f"*{note}*", ""])


def results_figure(results):
    """Bars of F1 and Fréchet distance for each variant and number of sources; the lines are the seeds' deviation."""
    variants = results["variants"]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(variants)), layout="constrained")
    for axes, (name, (title, _, _)) in zip(figure.subplots(1, 2, sharey=True), MEASURES.items(), strict=True):
        for k in COUNTS:
            values = np.array([measured[k][name] for measured in variants.values()])  # (variants, seeds)
            spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
            places = np.arange(len(variants)) + 0.27 * (k - 2)
            label, colour = f"{k} source{'s' * (k > 1)}", ("#9ecae1", "#4292c6", "#084594")[k - 1]
            axes.barh(places, values.mean(1), 0.25, xerr=spread, label=label, color=colour, ecolor="0.3")
        axes.set_title(title)
        axes.set_yticks(range(len(variants)), [NAMES[variant] for variant in variants])
        axes.invert_yaxis() if name == "f1" else None
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.axes[0].set_xlim(0, 1)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _show(axes, image, title=""):
    """A picture (3, H, W) in [-1, 1] without axes."""
    axes.imshow(((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy())
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def _spectrogram(axes, waveform, top, title):
    """The spectrogram of a clip (T,) with a title and no ticks."""
    draw_spectrogram(axes, waveform, top)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])


def examples_figure(examples):
    """A row for each scene: its mixture, the first three signals of it, and the pictures.

    examples: [(scene, signals (3, T), the classes CLAP takes them for, {variant: picture (3, 128, 128) in [-1, 1]})]
    """
    drawn = [name for name in ("macs", "mixture", "text") if name in examples[0][3]]
    figure = Figure(figsize=(1.9 * 4 + 1.55 * (1 + len(drawn)), 0.4 + 1.62 * len(examples)), layout="constrained")
    ratios = [1.25] * 4 + [1] * (1 + len(drawn))
    grid = figure.subplots(len(examples), len(ratios), squeeze=False, gridspec_kw={"width_ratios": ratios})
    for number, (row, (scene, signals, names, pictures)) in enumerate(zip(grid, examples, strict=True)):
        mixture = torch.from_numpy(scene.mixture)
        top = float(spectrogram_db(mixture).max())  # one scale, so that what is quiet looks quiet
        _spectrogram(row[0], mixture, top, ", ".join(scene.labels))
        row[0].set_ylabel("0 to 8 kHz", fontsize=7)
        for rank, (axes, signal, name) in enumerate(zip(row[1:4], signals, names, strict=True), 1):
            _spectrogram(axes, signal, top, f"signal {rank}: {name}")
        row[0].set_xlabel("8 s" if number == len(examples) - 1 else "", fontsize=7)
        for axes, name in zip(row[4:-1], drawn, strict=True):
            _show(axes, pictures[name], NAMES[name] if number == 0 else "")
        _show(row[-1], torch.from_numpy(scene.pixels), "the scene's own" if number == 0 else "")
    return figure


def interpolation_figure(names, fractions, pictures, seen, classes):
    """Pictures from one clip's embeddings to another's, a row for each seed, and below what the judge sees in them.

    names: of the two clips. fractions (n,): of the second one's embeddings, 0 to 1. pictures: [(n, 3, H, W) of each
    seed], in [-1, 1]. seen (n, classes): the judge's probabilities of the classes.
    """
    columns = len(fractions)
    figure = Figure(figsize=(1.3 * columns, 1.35 * len(pictures) + 2.2), layout="constrained")
    grid = figure.add_gridspec(len(pictures) + 1, columns, height_ratios=[1] * len(pictures) + [1.5])
    for number, images in enumerate(pictures):
        for column, image in enumerate(images):
            title = f"{fractions[column]:.2f}"
            if column in (0, columns - 1):
                title = names[bool(column)]
            _show(figure.add_subplot(grid[number, column]), image, title if number == 0 else "")
    axes = figure.add_subplot(grid[-1, :])
    for place, name in enumerate(classes):
        if seen[:, place].max() > 0.3:
            axes.plot(fractions, seen[:, place], "o-", markersize=4, label=name)
    axes.set(xlim=(-0.5 / (columns - 1), 1 + 0.5 / (columns - 1)), ylim=(0, 1), ylabel="seen by the judge")
    axes.set_xlabel("from the first clip's embeddings to the second's")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure
