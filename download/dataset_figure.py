"""The figure of check_dataset.py: what became of a dataset, on one page."""

from collections import Counter

import matplotlib
from matplotlib.figure import Figure

COLOURS = {"done": "#4c956c", "gone": "#adb5bd", "failed": "#d1495b"}
BLUE, SAND = "#30638e", "#edae49"
MAX_BARS = 8


def draw_report(name, journals, parts, labels, num_problems):
    """Six panels: outcome of the jobs, why some failed, clips and frames, durations, picture sizes, labels.

    Returns a matplotlib Figure.
    """
    with matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(13, 7.2), layout="constrained")
        axes = figure.subplots(2, 3)
        draw_outcomes(axes[0, 0], journals)
        draw_reasons(axes[0, 1], journals)
        draw_counts(axes[0, 2], parts)
        draw_durations(axes[1, 0], parts)
        draw_sizes(axes[1, 1], parts)
        draw_labels(axes[1, 2], parts, labels)
        clips, frames = sum(len(part.seconds) for part in parts), sum(len(n) for p in parts for n in p.frames.values())
        size = bytes_text(sum(part.bytes for part in parts))
        right = f"{num_problems:,} to put right" if num_problems else "nothing to put right"
        figure.suptitle(
            f"{name}: {clips:,} clips, {frames:,} frames, {size}; {right}",
            fontsize=13,
            fontweight="bold",
            x=0.01,
            ha="left",
        )
        figure.draw_without_rendering()  # ticks are made when first drawn, with the settings that hold then
    return figure


def nothing(axis, text):
    axis.text(0.5, 0.5, text, ha="center", va="center", color="#888", transform=axis.transAxes)
    axis.set_axis_off()


def draw_outcomes(axis, journals):
    axis.set_title("What became of each clip")
    if not journals:
        return nothing(axis, "no journal")
    for row, entries in enumerate(journals.values()):
        states = Counter(entry["state"] for entry in entries.values())
        left = 0
        for state, colour in COLOURS.items():
            axis.barh(row, states[state], left=left, color=colour, height=0.6, label=None if row else state)
            if states[state] > 0.06 * len(entries):
                axis.text(left + states[state] / 2, row, f"{states[state]:,}", ha="center", va="center", color="white")
            left += states[state]
    axis.set_yticks(range(len(journals)), list(journals))
    axis.set_ylim(len(journals) - 0.4, -0.6)
    axis.legend(ncols=3, frameon=False, loc="lower right", bbox_to_anchor=(1, -0.22))


def draw_reasons(axis, journals):
    reasons = Counter(
        (entry["state"], entry["reason"])
        for entries in journals.values()
        for entry in entries.values()
        if entry["state"] != "done"
    )
    axis.set_title("Why some are not there")
    if not reasons:
        return nothing(axis, "all there")
    most = max(reasons.values())
    for row, ((state, reason), count) in enumerate(reasons.most_common(MAX_BARS)):
        axis.barh(row, count, color=COLOURS[state], height=0.75)
        axis.text(0.01 * most, row, f"{count:,}  {shorten(reason)}", va="center")
    axis.set_yticks([])
    axis.set_ylim(max(min(len(reasons), MAX_BARS), 4) - 0.4, -0.6)


def draw_counts(axis, parts):
    axis.set_title("Clips and frames")
    frames = [sum(map(len, part.frames.values())) for part in parts]
    clips = [len(part.seconds) for part in parts]
    for shift, numbers, colour, label in ((-0.2, clips, BLUE, "clips"), (0.2, frames, SAND, "frames")):
        bars = axis.bar([index + shift for index in range(len(parts))], numbers, 0.4, color=colour, label=label)
        axis.bar_label(bars, [f"{number:,}" for number in numbers])
    axis.set_xticks(range(len(parts)), [part.name for part in parts])
    axis.set_xlim(-0.8, max(len(parts), 1) - 0.2)
    axis.margins(y=0.12)
    axis.legend(frameon=False)


def draw_durations(axis, parts):
    seconds = [value for part in parts for value in part.seconds.values()]
    axis.set_title("Length of the sounds")
    if not seconds:
        return nothing(axis, "no sound")
    axis.hist(seconds, bins=30, range=(0, max(*seconds, 10) * 1.02), color=BLUE)
    axis.set_yscale("log")
    axis.set_xlabel("seconds")
    axis.set_ylabel("clips (logarithmic)")
    rates = sum((part.sample_rates for part in parts), Counter())
    text = "\n".join(f"{rate:,} Hz: {count:,}" for rate, count in rates.most_common(4))
    axis.text(0.02, 0.97, text, va="top", transform=axis.transAxes)


def draw_sizes(axis, parts):
    sizes = sum((part.sizes for part in parts), Counter())
    axis.set_title("Size of the pictures")
    if not sizes:
        return nothing(axis, "no pictures")
    widths, heights = zip(*sizes, strict=True)
    area = [30 + 600 * count / max(sizes.values()) for count in sizes.values()]
    axis.scatter(widths, heights, s=area, color=SAND, alpha=0.6, edgecolor="white")
    text = "\n".join(f"{width}x{height}: {count:,}" for (width, height), count in sizes.most_common(4))
    axis.text(0.02, 0.97, text, va="top", transform=axis.transAxes)
    axis.axhline(512, color="#888", linewidth=0.8, linestyle=":")
    axis.axvline(512, color="#888", linewidth=0.8, linestyle=":")
    axis.set_xlim(0, max(*widths, 512) * 1.2)
    axis.set_ylim(0, max(*heights, 512) * 1.6)
    axis.set_xlabel("width (dotted: 512, the size of training)")
    axis.set_ylabel("height")


def draw_labels(axis, parts, labels):
    axis.set_title("Labels of each clip")
    if not labels:
        return nothing(axis, "no label file given")
    of_clips = [labels.get(id, ()) for part in parts for id in part.seconds]
    numbers = Counter(map(len, of_clips))
    bars = axis.bar(list(numbers), list(numbers.values()), color=BLUE)
    axis.bar_label(bars, [f"{count:,}" for count in numbers.values()])
    axis.set_xlabel("number of labels")
    axis.set_ylabel("clips")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.margins(y=0.12)
    frequent = Counter(name for names in of_clips for name in names).most_common(MAX_BARS)
    text = "\n".join(f"{count:,}  {shorten(name.replace('_', ' '), 24)}" for name, count in frequent)
    axis.text(0.99, 0.97, text, ha="right", va="top", transform=axis.transAxes, color="#555")


def bytes_text(size):
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def shorten(text, length=48):
    return text if len(text) <= length else text[: length - 1] + "…"
