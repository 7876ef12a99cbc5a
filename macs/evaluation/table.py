"""The evaluation's results as a text table and as a figure, beside the paper's rows.

measures: a selection of MEASURES. results: {model: {measure: Estimate}}; differences: the same of pairs of models.
paper: {method: {measure: number or None}}. folds: over how many parts of the clips the results are means, or 0.
"""

import numpy as np
from matplotlib.figure import Figure

from macs.evaluation.paper import LOWER_IS_BETTER, MEASURES, NAMES


def table(
    dataset_name, measures, results, differences, paper, notes, folds=0, resamples=0, stand_ins=False, own_split=False
):
    """The paper's rows for the set, the models' with their intervals below them, differences, and what was left out.

    notes: [{"what": a heading, "names": {id or path: reason or None}}]. resamples: behind the intervals, 0 for none.
    stand_ins: whether the small encoders were used, whose numbers compare with no paper's. own_split: whether the paper
    split the set in another way, so that its rows are of other clips.
    """
    arrow = {m: "↓" if m in LOWER_IS_BETTER else "↑" for m in MEASURES}
    rows = [[dataset_name, *(f"{NAMES[m]} {arrow[m]}" for m in measures)]]
    rows += [[paper_row(name, own_split), *(_number(m, row[m]) for m in measures)] for name, row in paper.items()]
    for name, estimates in results.items():
        rows += [[], [name, *(_number(m, estimates[m].value) for m in measures)]]
        rows += [["", *(_spread(folds, m, estimates[m]) for m in measures)]]
    for name, estimates in differences.items():
        rows += [[], [name, *(_number(m, e.value, "+") for m, e in estimates.items())]]
        rows += [["", *(_spread(folds, m, e, "+") for m, e in estimates.items())]]
    widths = [max(len(row[k]) for row in rows if row) for k in range(len(measures) + 1)]
    lines = [
        "   ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        if row
        else ""
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))

    if folds:
        lines += ["", f"Mean ± deviation over {folds} folds. FID is higher on fewer images."]
    elif resamples:
        lines += ["", f"[95% intervals]: {resamples} resamples of the clips, the same for every model."]
    if stand_ins:
        lines += ["Stand-in encoders: the models compare with each other, not with the paper's rows."]
    if own_split:
        lines += [
            f"The split of {dataset_name} is ours, the paper's is not public: not like for like with its numbers."
        ]
    if not paper:
        lines += [f"No rows of the paper are known for {dataset_name}."]
    for name, estimates in results.items():
        lines += [f"{name}: " + ", ".join(f"{NAMES[m]} of {e.n}" for m, e in estimates.items())]
        for m, e in estimates.items():
            if not np.isfinite(e.value):
                lines += [f"{name}: {NAMES[m]} is undefined: {_undefined(m, e)}"]
    return "\n".join(lines + [listed(note["names"], note["what"]) for note in notes])


def paper_row(method, own_split):
    return f"{method} (paper, other split)" if own_split else f"{method} (paper)"


def _number(measure, value, sign=""):
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:{sign}.{2 if measure in ('fid', 'clip_fid') else 4}f}"


def _spread(folds, measure, estimate, sign=""):
    if folds:
        return f"±{_number(measure, np.std(estimate.resamples, ddof=1))}"
    low_high = estimate.interval
    return f"[{_number(measure, low_high[0], sign)}, {_number(measure, low_high[1], sign)}]" if low_high else ""


def _undefined(measure, estimate):
    if measure in LOWER_IS_BETTER:
        return "it needs two images and two frames at least"
    if estimate.n == 0:
        return "no image has a partner of the same id"
    return "it holds each image against those of other clips: at least two, and not all alike"


def figure(title, measures, results, paper, folds=0, own_split=False):
    """One panel per measure: the paper's rows in grey, the models' in colour with their intervals, or deviations.

    Returns a matplotlib Figure.
    """
    names = [paper_row(name, own_split) for name in paper] + list(results)
    fig = Figure(figsize=(1.6 + 1.75 * len(measures), 1.3 + 0.32 * len(names)))
    axes = fig.subplots(1, len(measures), sharey=True, squeeze=False)
    for m, ax in zip(measures, axes[0], strict=True):
        for y, row in enumerate(paper.values()):
            if row[m] is not None:
                ax.plot(row[m], y, "o", color="0.55", markersize=6)
        for k, estimates in enumerate(results.values()):
            e, y, colour = estimates[m], len(paper) + k, f"C{k}"
            if not np.isfinite(e.value):
                ax.text(0.5, y, "undefined", transform=ax.get_yaxis_transform(), ha="center", va="center", color=colour)
                continue
            deviation = np.std(e.resamples, ddof=1) if folds else 0
            low, high = (e.value - deviation, e.value + deviation) if folds else e.interval or (e.value, e.value)
            ax.plot((low, high), (y, y), color=colour, linewidth=2, solid_capstyle="butt")
            ax.plot(e.value, y, "o", color=colour, markersize=7)
        ax.set_title(f"{NAMES[m]} {'↓' if m in LOWER_IS_BETTER else '↑'}", fontsize=11)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.margins(x=0.15)
        ax.locator_params(axis="x", nbins=3)
        ax.grid(axis="x", color="0.92")
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9, length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    spread = f"deviation over {folds} folds" if folds else "95% interval"
    fig.suptitle(f"{title}, bars: {spread}", fontsize=11, x=0.01, ha="left")
    fig.tight_layout()
    return fig


def listed(names, what, most=5):
    """A heading with the number of `names` {id or path: reason or None}, and the first of them in a line each."""
    lines = [f"{what}: {len(names)}"]
    lines += [f"    {name}" + (f" ({why})" if why else "") for name, why in list(names.items())[:most]]
    return "\n".join(lines + (["    ... all of them in results.json"] if len(names) > most else []))
