"""Storyboard: the moments of a recording that differ most, and the sheet that shows them over time."""

import base64
import html
import io
import json

import torch
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch

from macs.audio import SAMPLE_RATE
from macs.timeline import BLOCK_SECONDS
from macs.windows import COLUMN

MOST_STEPS = 1200  # in which a recording is divided: memory and time of `scenes` grow with their square
SHORTEST = 2.0  # s; of a scene
COLORS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000"]  # Paul Tol's bright


def scenes(timeline, panels):
    """The recording cut into at most `panels` parts, so that within each what is heard changes least.

    -> [(start, end, moment)] in s, the moment that is most like the whole part. What is heard is the embeddings, each
    times its source's share of the strength; the parts have the smallest sum of squared distances to their means
    (dynamic programming, Bellman 1961).
    """
    steps = int(min(MOST_STEPS, max(1, timeline.seconds)))
    times = (torch.arange(steps, dtype=torch.float64) + 0.5) * timeline.seconds / steps
    embeds, strength = timeline.embeds(times), timeline.strength(times)
    strength = strength / strength.norm(dim=-1, keepdim=True).clamp(min=1e-5)  # (steps, M); loudness alone is no scene
    heard = (embeds * strength[..., None]).flatten(1).double()
    panels = min(panels, max(1, int(timeline.seconds // SHORTEST)))
    least = max(1, min(steps // panels, round(SHORTEST * steps / timeline.seconds)))

    sums = torch.cat([torch.zeros(1, heard.shape[1], dtype=torch.float64), heard.cumsum(0)])
    squares = torch.cat([torch.zeros(1, dtype=torch.float64), heard.square().sum(1).cumsum(0)])
    gram = sums @ sums.T
    norms = gram.diagonal()
    length = torch.arange(steps + 1)[None] - torch.arange(steps + 1)[:, None]
    spread = squares[None] - squares[:, None] - (norms[None] + norms[:, None] - 2 * gram) / length.clamp(min=1)
    spread[length < least] = torch.inf  # (start, end)

    best, begins = spread[0], []
    for _ in range(panels - 1):
        best, begin = (best[:, None] + spread).min(0)
        begins.append(begin)
    ends = [steps]
    for begin in reversed(begins):
        ends.append(int(begin[ends[-1]]))
    edges = [0, *reversed(ends)]
    found = []
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        part = heard[first:end]
        moment = first + int((part - part.mean(0)).square().sum(1).argmin())
        found.append((first * timeline.seconds / steps, end * timeline.seconds / steps, float(times[moment])))
    return found


def evenly(timeline, every):
    """Parts of `every` s -> [(start, end, moment)] in s, the moment in the middle; a short rest joins the last one."""
    count = max(1, round(timeline.seconds / every))
    edges = [every * i for i in range(count)] + [timeline.seconds]
    return [(start, end, (start + end) / 2) for start, end in zip(edges[:-1], edges[1:], strict=True)]


def rows(timeline, labels=None, most=8, quietest=-20.0):
    """What is drawn as bars: [(name, strength (T,) in blocks of 0.25 s)], the strongest first.

    With labels (see `Timeline.names`) a row is all that CLAP takes for the same thing, whatever source it is in; the
    probabilities are averaged along every source, over five windows. Without, a row is a source. Rows that come nearer
    than `quietest` dB to the loudest moment of all for less than a second are left out.
    """
    power = timeline.levels.square()
    if labels is None:
        named = {f"source {i + 1}": power[:, i] for i in range(power.shape[1])}
    else:
        windows = timeline.window_names(labels)
        texts = list(windows[0][0])
        chances = torch.tensor([[[source[text] for text in texts] for source in window] for window in windows])
        chances = torch.nn.functional.avg_pool1d(
            chances.permute(1, 2, 0), 5, 1, 2, count_include_pad=False
        )  # (M, names, W)
        best = chances.argmax(1).T  # (W, M)
        middles = timeline.starts + timeline.window_seconds / 2
        block = (torch.arange(len(power)) + 0.5) * BLOCK_SECONDS
        best = best[(block[:, None] - middles[None]).abs().argmin(1)]  # (T, M)
        named = {text: (power * (best == i)).sum(1) for i, text in enumerate(texts)}
    loudest = max(float(p.max()) for p in named.values())
    least = max(1e-10, loudest * 10 ** (quietest / 10))
    kept = {name: p for name, p in named.items() if (p > least).sum() * BLOCK_SECONDS >= 1}
    return [(name, p.sqrt()) for name, p in sorted(kept.items(), key=lambda item: -float(item[1].sum()))[:most]]


LEFT, RIGHT = 0.075, 0.99  # of a sheet's width: where time begins and ends


def clock(seconds):
    """65.2 -> "1:05"; with hours from the first on."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def sheet(timeline, bars, parts, pictures=None, title=""):
    """The sheet as a matplotlib Figure: waveform, spectrogram, the rows as bars over time, the pictures below.

    bars: of `rows`. parts: of `scenes` or `evenly`; pictures: one for each, or None for the upper half alone.
    """
    width = 12.0
    side = (RIGHT - LEFT) * width / max(4, len(parts)) if pictures else 0
    heights = [0.55, 1.3, 0.24 * len(bars) + 0.1, side + 0.75 if pictures else 0.2]
    total = sum(heights) + 0.5
    figure = Figure(figsize=(width, total))
    top, axes = 1 - (0.3 if title else 0.08) / total, []
    for height in heights:
        axes.append(figure.add_axes((LEFT, top - height / total, RIGHT - LEFT, (height - 0.06) / total)))
        top -= height / total
    wave, spectrum, lanes, below = axes
    if title:
        wave.set_title(title, fontsize=11, loc="left")
    time = torch.arange(len(timeline.peaks)) * COLUMN / SAMPLE_RATE
    wave.fill_between(time, -timeline.peaks, timeline.peaks, color="#555555", linewidth=0)
    level = timeline.spectrum.T.numpy()
    extent = (0, len(timeline.peaks) * COLUMN / SAMPLE_RATE, 0, SAMPLE_RATE / 2000)
    spectrum.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=level.max() - 70)
    spectrum.set_ylabel("kHz", fontsize=8)

    loudest = max((float(strength.max()) for _, strength in bars), default=1.0)
    for i, (name, strength) in enumerate(bars):
        block = (torch.arange(len(strength)) + 0.5) * BLOCK_SECONDS
        height = 0.46 * (1 + 20 * (strength / loudest).clamp(min=1e-6).log10() / 40).clamp(min=0)  # down to -40 dB
        color = COLORS[i % len(COLORS)]
        lanes.fill_between(block, -i - height, -i + height, color=color, linewidth=0)
        lanes.text(-0.008, -i, name, ha="right", va="center", fontsize=9, color=color, clip_on=False,
                   transform=lanes.get_yaxis_transform())  # fmt: skip
    lanes.set_ylim(-len(bars) + 0.45, 0.55)
    for axis in (wave, spectrum, lanes):
        axis.set_xlim(0, timeline.seconds)
        axis.tick_params(labelsize=8, labelbottom=axis is lanes)
        for start, _, _ in parts[1:]:
            axis.axvline(start, color="#ffffff" if axis is spectrum else "#999999", linewidth=0.6, linestyle=":")
    for axis in (wave, lanes):
        axis.set_yticks([])
        for place in ("top", "right", "left"):
            axis.spines[place].set_visible(False)
    lanes.xaxis.set_major_formatter(lambda seconds, _: clock(seconds))
    below.axis("off")
    if pictures:
        _draw_pictures(figure, below, lanes, parts, pictures, side / width, side / total)
    return figure


def _draw_pictures(figure, below, lanes, parts, pictures, width, height):
    """The pictures in a row at the bottom, each joined to its moment on the axis above."""
    slot = (RIGHT - LEFT) / len(parts)
    for i, ((start, end, moment), picture) in enumerate(zip(parts, pictures, strict=True)):
        left = LEFT + slot * i + (slot - 0.94 * width) / 2
        axis = figure.add_axes((left, below.get_position().y0, 0.94 * width, 0.94 * height))
        axis.imshow(picture)
        axis.axis("off")
        axis.set_title(f"{clock(start)} – {clock(end)}", fontsize=8, pad=2)
        figure.add_artist(ConnectionPatch(
            (moment, lanes.get_ylim()[0]), (0.5, 1 + 0.16 / (height * figure.get_figheight())), "data", "axes fraction",
            axesA=lanes, axesB=axis, color="#888888", linewidth=0.8,
        ))  # fmt: skip


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; max-width: 1200px; margin: 1em auto; padding: 0 1em; color: #222; }}
h1 {{ font-size: 1.2em; }}
audio {{ width: 100%; }}
#sheet {{ position: relative; cursor: pointer; }}
#sheet img {{ width: 100%; display: block; }}
#now {{ position: absolute; top: 0; bottom: 0; width: 2px; background: #e00; pointer-events: none; }}
#parts {{ display: flex; flex-wrap: wrap; gap: 8px; padding-left: 7.5%; }}
button {{ flex: 1 1 100px; max-width: 260px; padding: 4px; font: inherit; text-align: left; color: inherit;
  border: 2px solid transparent; border-radius: 6px; background: #f4f4f4; cursor: pointer; }}
button.on {{ border-color: #e00; }}
button img {{ width: 100%; display: block; border-radius: 3px; }}
small {{ color: #666; }}
</style></head><body>
<h1>{title}</h1>
<audio id="sound" controls src="data:audio/mp4;base64,{sound}"></audio>
<div id="sheet"><img alt="waveform, spectrogram and sources over time" src="data:image/png;base64,{sheet}">
<div id="now"></div></div>
<div id="parts">{parts}</div>
<script>
const sound = document.getElementById("sound"), sheet = document.getElementById("sheet");
const now = document.getElementById("now"), parts = [...document.querySelectorAll("#parts button")];
const {{ seconds, left, right }} = {numbers};
function jump(t) {{ sound.currentTime = Math.min(Math.max(t, 0), seconds); sound.play(); show(); }}
function show() {{
  const t = sound.currentTime;
  now.style.left = 100 * (left + (right - left) * Math.min(t / seconds, 1)) + "%";
  for (const part of parts) part.classList.toggle("on", t >= +part.dataset.start && t < +part.dataset.end);
}}
sheet.addEventListener("click", event => {{
  const box = sheet.getBoundingClientRect();
  jump(((event.clientX - box.left) / box.width - left) / (right - left) * seconds);
}});
for (const part of parts) part.addEventListener("click", () => jump(+part.dataset.start));
function frame() {{ show(); requestAnimationFrame(frame); }}
frame();
</script></body></html>
"""


def page(timeline, bars, parts, pictures, sound, title):
    """The storyboard as one html file with everything in it (a str); a click jumps there in the sound.

    sound: bytes of an mp4 with the recording, as `macs.film.write_film` makes it.
    """
    buttons = []
    for (start, end, _), picture in zip(parts, pictures, strict=True):
        here = slice(int(start / BLOCK_SECONDS), max(int(start / BLOCK_SECONDS) + 1, int(end / BLOCK_SECONDS)))
        means = [(float(strength[here].square().mean()), name) for name, strength in bars]
        most = max((power for power, _ in means), default=0.0)
        heard = ", ".join(name for power, name in means if power > 0.02 * most)
        buttons.append(
            f'<button data-start="{start:.3f}" data-end="{end:.3f}"><img alt="" src="data:image/jpeg;base64,'
            f'{_base64(picture, "JPEG", quality=90)}">{clock(start)} – {clock(end)}<br>'
            f"<small>{html.escape(heard)}</small></button>"
        )
    upper = io.BytesIO()
    sheet(timeline, bars, parts).savefig(upper, format="png", dpi=110)
    return PAGE.format(
        title=html.escape(title),
        sound=base64.b64encode(sound).decode(),
        sheet=base64.b64encode(upper.getvalue()).decode(),
        parts="".join(buttons),
        numbers=json.dumps({"seconds": timeline.seconds, "left": LEFT, "right": RIGHT}),
    )


def _base64(picture, kind, **settings):
    content = io.BytesIO()
    picture.convert("RGB").save(content, kind, **settings)
    return base64.b64encode(content.getvalue()).decode()
