"""The page's own pieces of html: the picture with its maps, the mixer, the part of a long recording, the ranking.

page.css dresses them, the .js files of the same names make them move. All that came from outside is escaped.
"""

import html
from importlib.resources import files

from macs.page.embed import audio_uri, image_uri, map_image, spectrogram_image
from macs.page.studio import energy_shares
from macs.plots import spectrogram_db


def source_name(names, source):
    """«dog», or «source 2» where there are no names."""
    return names[source][0] if names else f"source {source + 1}"


def picture_view(drawn, before, names):
    """The picture, under it the one before to compare with, and a layer for each source's map.

    A map is bright where the source's share of the attention is largest for it: what tells places apart.
    """
    layers = "".join(
        f'<img class="map" data-source="{i}" alt="" src="{image_uri(map_image(source_map))}">'
        for i, source_map in enumerate(drawn.maps)
    )
    described = ", ".join(dict.fromkeys(source_name(names, i) for i in range(len(drawn.maps))))
    shown = f'<img class="picture" alt="Picture of {html.escape(described)}" src="{image_uri(drawn.image)}">'
    compare = ""
    if before is not None:
        shown += f'<img class="before" alt="" src="{image_uri(before.image)}">'
        compare = (
            '<label class="compare">before <input type="range" class="reveal" min="0" max="100" value="0" '
            'aria-label="How much of the picture before is shown"></label>'
        )
    return (
        f'<div class="stage" style="--ratio:{drawn.image.width}/{drawn.image.height}" tabindex="0" role="application" '
        'aria-label="The picture. Arrow keys move the cross, Enter asks which sources drew that place.">'
        f'{shown}{layers}<span class="cross" hidden></span></div>{compare}'
    )


def mixer_view(heard):
    """A row for each source: number, name, share of the energy, spectrogram, player, level, mute and solo."""
    top = float(spectrogram_db(heard.mixture).max())
    rows = [
        f"""<li class="source mixture"><div class="name"><b>What was heard</b></div>
<img class="spectrogram" alt="Spectrogram of the recording" src="{image_uri(spectrogram_image(heard.mixture, top))}">
<audio controls preload="metadata" aria-label="Play the recording" src="{audio_uri(heard.mixture)}"></audio></li>"""
    ]
    for i, (source, energy) in enumerate(zip(heard.sources, energy_shares(heard.sources), strict=True)):
        name = html.escape(source_name(heard.names, i))
        sure = f"{heard.names[i][1]:.0%} sure, " if heard.names else ""
        rows.append(f"""<li class="source" data-source="{i}">
<div class="name"><b>{i + 1}: {name}</b> <small>{sure}{energy:.0%} of the energy</small></div>
<img class="spectrogram" alt="Spectrogram of source {i + 1}" src="{image_uri(spectrogram_image(source, top))}">
<audio controls preload="metadata" aria-label="Play source {i + 1}, {name}" src="{audio_uri(source)}"></audio>
<div class="levels"><input type="range" class="level" min="0" max="3" step="0.05" value="1"
 aria-label="Weight of source {i + 1}, {name}"><output>1.00</output>
{_button("Mute", i, name)}{_button("Solo", i, name)}</div></li>""")
    return f'<ol class="mixer">{"".join(rows)}</ol>'


def _button(word, source, name):
    """A button of a source's row that stays pressed."""
    label = f"{word} source {source + 1}, {name}"
    return f'<button type="button" class="{word.lower()}" aria-pressed="false" aria-label="{label}">{word}</button>'


def cut_view(heard, length):
    """The outline of a long recording with the part that is heard; empty for what is no longer than that."""
    if heard.seconds <= length:
        return ""
    bars = "".join(
        f'<rect x="{i}" y="{50 - 50 * peak:.1f}" width="1" height="{max(1.0, 100 * peak):.1f}"/>'
        for i, peak in enumerate(heard.peaks)
    )
    return f"""<div class="cut" style="--from:{heard.start / heard.seconds};--part:{length / heard.seconds}">
<div class="wave"><svg viewBox="0 0 {len(heard.peaks)} 100" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>
<span class="part"></span></div>
<label>Heard: from <output>{heard.start:.1f}</output> s, {length:.0f} of {heard.seconds:.1f} s
<input type="range" class="from" min="0" max="{heard.seconds - length:.1f}" step="0.1" value="{heard.start:.1f}"
 data-seconds="{heard.seconds}" aria-label="Where the {length:.0f} seconds begin"></label></div>"""


def ranking_view(ranking, names):
    """Which sources drew a place, a bar for each; `ranking` as of `studio.ranked`."""
    most = max(max(lift for *_, lift in ranking), 1e-6)
    rows = "".join(
        f'<li data-source="{i}"><b>{i + 1}: {html.escape(source_name(names, i))}</b>'
        f'<span class="bar"><i style="width:{100 * lift / most:.0f}%"></i></span>'
        f"<small>{lift:.2f}× its mean, {share:.0%} of the attention here</small></li>"
        for i, share, lift in ranking
    )
    return f'<h3>Who drew this place</h3><ol class="ranking">{rows}</ol>'


def message_view(text="", problem=""):
    """A line under the recording: what happens; or what is wrong, and the details. Read out by screen readers."""
    kind = "error" if problem else "note"
    text = f"<b>{html.escape(problem)}</b> {html.escape(text)}" if problem else html.escape(text)
    return f'<p class="message {kind}" role="status" aria-live="polite">{text}</p>'


def script(name):
    """The JavaScript or style of a piece, from the file beside this one."""
    return (files("macs.page") / name).read_text(encoding="utf-8")
