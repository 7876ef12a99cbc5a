"""Pictures and sounds as data URIs, so that an html page holds all it shows."""

import base64
import io

import matplotlib
import numpy as np
import soundfile
from PIL import Image

from macs.audio import SAMPLE_RATE
from macs.plots import spectrogram_db


def _uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_uri(image):
    """A PIL image -> a data URI (PNG)."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return _uri("image/png", file.getvalue())


def audio_uri(waveform):
    """A waveform (T,) at 16 kHz -> a data URI (MP3, which every browser plays), about 5 KB a second."""
    file = io.BytesIO()
    soundfile.write(file, waveform.clamp(-1, 1).cpu().numpy(), SAMPLE_RATE, format="MP3")
    return _uri("audio/mpeg", file.getvalue())


def spectrogram_image(waveform, top=None, size=(256, 64)):
    """The spectrogram of (T,) at 16 kHz as a PIL image of size (width, height), 70 dB below `top` (its maximum)."""
    level = spectrogram_db(waveform)
    top = float(level.max()) if top is None else top
    colours = matplotlib.colormaps["magma"](np.clip((level - top) / 70 + 1, 0, 1)[::-1], bytes=True)
    return Image.fromarray(colours[..., :3]).resize(size, Image.Resampling.BILINEAR)


def map_image(source_map):
    """A source's map (H, W) -> a PIL image to lay over the picture: clear at its maximum, dark at its minimum."""
    light = source_map.float() - source_map.float().min()
    light = (light / light.max().clamp(min=1e-12)).cpu().numpy()
    alpha = Image.fromarray((217 * (1 - light)).astype(np.uint8))
    overlay = Image.new("LA", alpha.size)
    overlay.putalpha(alpha)
    return overlay
