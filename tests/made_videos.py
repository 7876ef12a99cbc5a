"""Small videos whose every frame tells its number by its colour, for tests that need to know what was extracted."""

import subprocess

import imageio_ffmpeg
import numpy as np
import soundfile

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FPS = 10
SIZE = (64, 48)  # width, height


def make_video(path, seconds=10.0, fps=FPS, sound=True, pictures=True):
    """Frame i has red 20 + 20 * (its second) and green 20 + 20 * (i within the second); a tone steps up each second."""
    arguments = []
    if sound:
        time = np.arange(int(seconds * 44100)) / 44100
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * np.floor(time)) * time)
        wav = path.with_suffix(".tone.wav")
        soundfile.write(wav, np.stack([tone, tone], 1), 44100)
        arguments += ["-i", wav]
    frames = b""
    if pictures:
        arguments += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE[0]}x{SIZE[1]}", "-r", fps, "-i", "-"]
        colours = [(20 + 20 * (i // fps), 20 + 20 * (i % fps), 128) for i in range(round(seconds * fps))]
        frames = b"".join(bytes(colour) * (SIZE[0] * SIZE[1]) for colour in colours)
    subprocess.run(
        [
            FFMPEG,
            "-v",
            "error",
            "-y",
            *map(str, arguments),
            "-c:v",
            "libx264",
            "-qp",
            "4",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "30",
            "-movflags",
            "+faststart",
            str(path),
        ],
        input=frames,
        check=True,
    )
    if sound:
        wav.unlink()
    return path


def frame_number(image, fps=FPS):
    """The number of the frame that an image shows."""
    red, green, _ = np.asarray(image.convert("RGB"), dtype=float).mean((0, 1))
    return round((red - 20) / 20) * fps + round((green - 20) / 20)
