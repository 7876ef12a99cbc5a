"""Timings of MACS, each beside its baseline in the same run: python scripts/benchmark.py SUBJECT [--help].

Machines are noisy: quote the ratios, which are medians over interleaved repeats, not the seconds. The subjects are the
files of scripts/benchmarks/.
"""

import argparse
import importlib
import sys

from macs.script import run

SUBJECTS = [
    "attention", "film", "frames", "measures", "mixit", "pipeline", "separator_step", "soundscapes", "stage_two",
]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    subject = importlib.import_module(f"benchmarks.{parser.parse_args(sys.argv[1:2]).subject}")
    parser = argparse.ArgumentParser(
        prog=f"benchmark.py {sys.argv[1]}",
        description=subject.__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    subject.add_arguments(parser)
    subject.run(parser.parse_args(sys.argv[2:]))


if __name__ == "__main__":
    run(main)
