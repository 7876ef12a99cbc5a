"""ffmpeg, always called with a list of arguments, never through a shell."""

import errno
import os
import re
import subprocess

import imageio_ffmpeg

SAMPLE_RATE = 16000  # what the separator hears
# mono 16-bit PCM; async and first_pts fill what is missing (a late start, a gap) with silence, so that second n of the
# wav is second n of the pictures; bitexact leaves the encoder's name out, so that the header has the standard 44 bytes
WAV_ARGUMENTS = [
    "-af",
    f"aresample={SAMPLE_RATE}:async=1:first_pts=0",
    "-ac",
    "1",
    "-c:a",
    "pcm_s16le",
    "-fflags",
    "+bitexact",
]


class FFmpegError(Exception):
    """ffmpeg failed; the message is the line in which it says why."""


def find_ffmpeg():
    """Path of ffmpeg: IMAGEIO_FFMPEG_EXE if set, else the packaged one, else the system's; it has been run once.

    Raises SystemExit if there is none that runs.
    """
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        subprocess.run([path, "-version"], check=True, capture_output=True)
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"No ffmpeg that runs ({error}). `pip install imageio-ffmpeg`, install your system's ffmpeg, "
            "or set IMAGEIO_FFMPEG_EXE to its path."
        ) from None
    return path


def run_ffmpeg(ffmpeg, arguments, folder=None, timeout=600):
    """Runs ffmpeg in the folder and returns what it wrote to stderr.

    Raises FFmpegError if the input is to blame; else OSError for a full disk, TimeoutError, or RuntimeError if ffmpeg
    was killed. Ctrl-C does not reach it (a session of its own): it may finish what it is at.
    """
    command = [ffmpeg, "-nostdin", "-hide_banner", "-y", *map(str, arguments)]
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"ffmpeg was not done after {timeout} s") from None
    if "No space left on device" in result.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if result.returncode < 0 or "received signal" in result.stderr:
        raise RuntimeError(f"ffmpeg was killed ({result.returncode})")
    if result.returncode:
        raise FFmpegError(explain(result.stderr) or f"ffmpeg ended with exit code {result.returncode}")
    return result.stderr


def explain(stderr):
    """In plain words what is wrong with the input, or ffmpeg's own last words; None if it said nothing."""
    if "received no packets" in stderr:
        return "too short: not a single picture or sound could be decoded"
    if "moov atom not found" in stderr or "Invalid data found when processing input" in stderr:
        return "not a video that can be read: the file is damaged or cut off"
    streams = [line for line in stderr.split("Output #0")[0].splitlines() if "Stream #0:" in line]
    if streams and not any("Audio:" in line for line in streams):
        return "no sound in it"
    if streams and not any("Video:" in line and "(attached pic)" not in line for line in streams):
        return "no pictures in it"
    lines = [line for line in stderr.splitlines() if line.strip() and line != "Conversion failed!"]
    return re.sub(r"^(\[[^]]*\] )+", "", lines[-1]) if lines else None  # without [decoder @ 0x7f...]
