"""Timings of MACS, each beside its baseline in the same run: python scripts/benchmark.py SUBJECT [--help].

Machines are noisy: quote the ratios, which are medians over interleaved repeats, not the seconds.
"""

import argparse
import statistics
import sys
import time
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


def soundscapes(args):
    """How many mixtures and pictures of the synthetic world one process makes per second."""
    from macs.data.soundscapes import make_scene

    makers = {
        "mixtures": lambda: [make_scene("train", index).mixture for index in range(args.scenes)],
        "pictures": lambda: [make_scene("train", index).image for index in range(args.scenes)],
    }
    for name, seconds in interleaved(makers).items():
        print(f"{name}: {args.scenes / seconds:.0f} per second")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True)
    subject = subjects.add_parser("soundscapes", help=soundscapes.__doc__)
    subject.add_argument("--scenes", type=int, default=64, help="scenes in each repeat (default: 64)")
    subject.set_defaults(function=soundscapes)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
