"""The report of a run: one self-contained html file with its pictures, sounds and maps, to send by mail."""

import contextlib
import html
from dataclasses import dataclass

import torch
from PIL import Image

from macs.files import write_beside
from macs.page.embed import audio_uri, image_uri, map_image, spectrogram_image
from macs.page.studio import energy_shares
from macs.page.views import source_name
from macs.plots import spectrogram_db

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; overflow-wrap: anywhere; margin: 0 0 .6rem; }
article { border-top: 1px solid var(--line); padding: 1.2rem 0; break-inside: avoid; }
.top { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.top figure { flex: 1 1 320px; } .top .spectrogram { height: 216px; } figure { margin: 0; }
img { width: 100%; border-radius: 6px; display: block; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; max-width: 100%; }
.pictures img { width: 256px; max-width: 100%; }
.sources { display: grid; grid-template-columns: repeat(auto-fill, minmax(155px, 1fr)); gap: .8rem; margin-top: 1rem; }
.sources .spectrogram { height: 60px; } audio { width: 100%; height: 32px; margin: .3rem 0; }
small, footer { color: var(--dim); } code { overflow-wrap: anywhere; }
.map { position: relative; } .map img + img { position: absolute; inset: 0; height: 100%; }
"""


@dataclass
class Entry:
    """A clip of a report: its name, mixture (T,), signals (M, T), pictures, and with them the first picture's maps
    (M, H, W) or None, and the signals' names, M pairs (name, probability), or None."""

    name: str
    mixture: torch.Tensor
    sources: torch.Tensor
    images: list[Image.Image]
    maps: torch.Tensor | None = None
    names: list | None = None


def entry_html(entry):
    """An Entry as an <article>."""
    top = float(spectrogram_db(entry.mixture).max())
    pictures = "".join(f'<img alt="picture" src="{image_uri(image)}">' for image in entry.images)
    cells = []
    shares = None
    if entry.maps is not None:
        maps = entry.maps.float()
        shares = (maps.mean((1, 2)) / maps.mean((1, 2)).sum().clamp(min=1e-12)).tolist()
    for i, (source, energy) in enumerate(zip(entry.sources, energy_shares(entry.sources), strict=True)):
        sure = f" {entry.names[i][1]:.0%}" if entry.names else ""
        drew = f", {shares[i]:.0%} of the maps" if shares else ""
        shown = ""
        if entry.maps is not None:
            shown = (
                f'<div class="map"><img alt="where source {i + 1} drew" src="{image_uri(entry.images[0])}">'
                f'<img alt="" src="{image_uri(map_image(entry.maps[i]))}"></div>'
            )
        cells.append(
            f"<figure><figcaption><b>{i + 1}: {html.escape(source_name(entry.names, i))}</b>{sure}<br>"
            f"<small>{energy:.0%} of the energy{drew}</small></figcaption>"
            f'<img class="spectrogram" alt="spectrogram" src="{image_uri(spectrogram_image(source, top))}">'
            f'<audio controls src="{audio_uri(source)}"></audio>{shown}</figure>'
        )
    heard = spectrogram_image(entry.mixture, top, (512, 128))
    return (
        f'<article><h2>{html.escape(entry.name)}</h2><div class="top"><figure>'
        f'<img class="spectrogram" alt="spectrogram of the mixture" src="{image_uri(heard)}">'
        f'<audio controls src="{audio_uri(entry.mixture)}"></audio></figure>'
        f'<div class="pictures">{pictures}</div></div><div class="sources">{"".join(cells)}</div></article>'
    )


HEAD = (
    '<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>MACS report</title>'
    f"<style>{STYLE}</style><body><h1>From sound to picture</h1>"
)
EXPLAINED = (
    "<p>Each recording, its picture, and the signals it was separated into. Under a signal's map the picture is bright "
    "where the signal took part most.</p>"
)


@contextlib.contextmanager
def writing_report(path, command=""):
    """Yields a function that adds an Entry, by its fields; `path` is at the end one html file with all inside.

    The entries are written as they come, so memory does not grow with them. command: what made it, for the reader.
    """
    with write_beside(path) as partial, open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
        made = f"<p><small>Made by</small> <code>{html.escape(command)}</code></p>" if command else ""
        file.write(HEAD + made + EXPLAINED)
        yield lambda *fields: file.write(entry_html(Entry(*fields)))
        file.write("</body></html>\n")
