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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_subparsers(dest="subject", required=True)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
