"""Timings of MACS, each beside its baseline in the same run: python scripts/benchmark.py SUBJECT [--help].

Machines are noisy: quote the ratios, which are medians over interleaved repeats, not the seconds.
"""

import argparse
import ctypes
import itertools
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def interleaved(functions, repeats=5, device="cpu"):
    """Runs each of {name: function} once to warm up, then `repeats` times in turn; returns {name: median seconds}."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def direct_mixit_loss(sources, mixture_1, mixture_2, eps=1e-8):
    """MixIT by direct enumeration: for each of the 2**M - 1 assignments the sums as waveforms and their SI-SDR."""

    def si_sdr(estimate, reference):
        estimate, reference = estimate - estimate.mean(-1, keepdim=True), reference - reference.mean(-1, keepdim=True)
        scale = ((estimate * reference).sum(-1, keepdim=True) + eps) / (reference.square().sum(-1, keepdim=True) + eps)
        target = scale * reference
        return 10 * torch.log10((target.square().sum(-1) + eps) / ((target - estimate).square().sum(-1) + eps))

    losses = []
    for chosen in itertools.product((1.0, 0.0), repeat=sources.shape[1]):
        chosen = sources.new_tensor(chosen)
        if chosen.any():
            losses.append(-si_sdr(chosen @ sources, mixture_1) - si_sdr((1 - chosen) @ sources, mixture_2))
    return torch.stack(losses, dim=1).amin(1).mean()


def peak_memory(function, device="cpu"):
    """Peak memory (MiB) that a call takes beyond what is held before it; on the CPU of the whole process, on Linux."""

    def resident(entry):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
        return int(line.split()[1]) / 1024

    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # freed memory counts as resident until it is given back
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before


def mixit(args):
    """mixit_loss, forward and backward, against direct enumeration: time, peak extra memory, difference in dB."""
    from macs.losses import mixit_loss

    generator = torch.Generator(args.device).manual_seed(0)
    mixtures = torch.randn(args.batch_size, 2, args.samples, generator=generator, device=args.device)
    share = torch.rand(args.batch_size, args.M, 2, generator=generator, device=args.device)
    sources = share @ mixtures
    sources += 0.1 * torch.randn(sources.shape, generator=generator, device=args.device)
    sources.requires_grad_()

    def step(loss):
        sources.grad = None
        value = loss(sources, mixtures[:, 0], mixtures[:, 1])
        value.backward()
        return value.item()

    steps = {"closed form": lambda: step(mixit_loss), "enumeration": lambda: step(direct_mixit_loss)}
    seconds = interleaved(steps, args.repeats, args.device)
    memory = {}
    for name, function in steps.items():
        sources.grad = None
        memory[name] = peak_memory(function, args.device)
    difference = abs(steps["closed form"]() - steps["enumeration"]())
    for name in steps:
        print(f"{name:>12}: {seconds[name]:8.3f} s, peak {memory[name]:6.0f} MiB")
    (ours, direct), (our_memory, direct_memory) = seconds.values(), memory.values()
    print(f"{direct / ours:.0f} times faster, {our_memory / direct_memory:.3f} of the memory, {difference:.1e} dB off")


def frames(args):
    """Frame extraction in clips/s, all ten seconds of each clip, beside one ffmpeg call for each frame."""
    import contextlib
    import os
    import subprocess
    import tempfile

    from download.ffmpeg import WAV_ARGUMENTS, find_ffmpeg
    from scripts import extract_frames

    ffmpeg = find_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        video = args.video.resolve() if args.video else folder / "clip.mp4"
        if not args.video:
            subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=1280x720:r=30:d=10", "-f", "lavfi",
                            "-i", "sine=d=10", "-pix_fmt", "yuv420p", video], check=True)
        (folder / "videos").mkdir()
        for number in range(args.clips):
            (folder / "videos" / f"{number:011}.mp4").symlink_to(video)

        def extract(workers):
            with (tempfile.TemporaryDirectory(dir=folder) as data_dir, open(os.devnull, "w") as nowhere,
                  contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)):
                extract_frames.main(["--data_dir", data_dir, "--dataset_name", "LLP", "--split", "train", "--choose",
                                     "all", "--video_dir", str(folder / "videos"), "--workers", str(workers)])

        def extract_one_by_one():
            for video in (folder / "videos").iterdir():
                for second in range(10):
                    subprocess.run([ffmpeg, "-v", "error", "-y", "-ss", str(second + 0.5), "-i", video, "-frames:v",
                                    "1", "-q:v", "2", folder / "frame.jpg"], check=True)
                subprocess.run([ffmpeg, "-v", "error", "-y", "-i", video, *WAV_ARGUMENTS, folder / "a.wav"], check=True)

        ways = {f"{workers} workers": partial(extract, workers) for workers in args.workers}
        seconds = interleaved(ways | {"a call for each frame": extract_one_by_one}, args.repeats)
    for name, median in seconds.items():
        print(f"{name:>22}: {args.clips / median:6.2f} clips/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True)

    subject = subjects.add_parser("mixit", help=mixit.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    subject.add_argument("--batch_size", type=int, default=8)
    subject.add_argument("--M", type=int, default=6, help="signals")
    subject.add_argument("--samples", type=int, default=128_000, help="length of the waveforms")
    subject.add_argument("--repeats", type=int, default=3)
    subject.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    subject.set_defaults(function=mixit)

    subject = subjects.add_parser("frames", help=frames.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    subject.add_argument("--video", type=Path, help="a clip; without it one of 10 s, 1280x720, 30 frames/s is made")
    subject.add_argument("--clips", type=int, default=8, help="copies of it")
    subject.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    subject.add_argument("--repeats", type=int, default=3)
    subject.set_defaults(function=frames)

    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
