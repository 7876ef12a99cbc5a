"""Writes the eight demo recordings, soundscapes of 8 s at 16 kHz, into asset/demo: python soundscapes/make_demo.py"""

import argparse
from pathlib import Path

from macs.files import write_beside
from macs.options import integer
from macs.script import run
from soundscapes.scenes import make_scene, write_wav

DEMOS = [
    ["rain", "dog"],
    ["sea", "bird"],
    ["fire", "drum"],
    ["wind", "bell"],
    ["crickets", "frog"],
    ["stream", "cow", "bird"],
    ["traffic", "siren", "car horn"],
    ["train"],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output_dir", default="asset/demo", help="where the eight wav files go")
    parser.add_argument(
        "--seed", type=integer(0), default=0, help="another seed gives other recordings of the same sounds"
    )
    args = parser.parse_args()

    folder = Path(args.output_dir)
    for index, labels in enumerate(DEMOS):
        scene = make_scene("demo", index, args.seed, labels=labels)
        path = folder / f"{'_'.join(labels).replace(' ', '_')}.wav"
        with write_beside(path) as partial:
            write_wav(partial, scene.mixture)
        print(f"{path}: {scene.caption}")


if __name__ == "__main__":
    run(main)
