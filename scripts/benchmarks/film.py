"""Through time: frames of a film beside pictures of the same size, and what listening to a long recording costs."""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.timing import DEVICE, device_name, interleaved, peak_memory
from macs.audio import SAMPLE_RATE
from macs.film import film_frames, frame_times
from macs.loading import load_pipeline
from soundscapes.scenes import make_scene


def add_arguments(parser):
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="the model")
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 4], help="lengths of recordings to listen to")
    parser.add_argument("--hop", type=float, default=2.0, help="from one window to the next, in s")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default=DEVICE)


def write_recording(path, minutes):
    """Scenes of the synthetic world one after the other, sixteen in turn, as a 16-bit wav at 16 kHz."""
    scenes = [make_scene("test", index).mixture.astype(np.float32) for index in range(16)]
    left = minutes * 60 * SAMPLE_RATE
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        while left > 0:
            for scene in scenes:
                file.write(scene[: max(0, left)])
                left -= len(scene)


@torch.no_grad()
def run(args):
    pipe = load_pipeline(args.model_dir).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    print(device_name(args.device))
    with tempfile.TemporaryDirectory() as folder:
        for minutes in sorted(args.minutes):
            path = Path(folder) / f"{minutes}.wav"
            write_recording(path, minutes)
            timelines, start = [], time.perf_counter()
            memory = peak_memory(lambda: timelines.append(pipe.listen(path, args.hop)), args.device)  # noqa: B023
            seconds = time.perf_counter() - start
            whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB, on Linux
            print(
                f"{minutes:4} minutes heard in {seconds:7.1f} s, {60 * minutes / seconds:5.1f} times real time; "
                f"{memory:5.0f} MiB more than before, the whole process {whole:5.0f} MiB at most",
                flush=True,
            )
    timeline = timelines[0]
    times = frame_times(args.frames / 8, 8)
    settings = {"num_inference_steps": args.steps}

    def pictures(batch_size):
        for part in times.split(batch_size):
            pipe(source_embeds=timeline.embeds(part), **settings)

    functions = {
        "a film": lambda: list(film_frames(pipe, timeline, times, **settings)),
        "pictures, one at a time": lambda: pictures(1),
        "pictures, four at a time": lambda: pictures(4),
    }
    seconds = interleaved(functions, args.repeats, args.device)
    for name, value in seconds.items():
        print(f"{name:>25}: {args.frames / value:6.2f} a second, a film {value / seconds['a film']:5.2f} times as fast")
