"""Writes soundscapes to disk in the layout of the other datasets, for training and evaluating from files.

    python soundscapes/make_soundscapes.py --data_dir data --train 10000 --test 500

makes data/Soundscapes/{train,test}/{audio/<id>.wav,image/<id>_frame_0.jpg}, Soundscapes.csv with the labels and
captions.csv. Interrupted or called again with larger numbers, it makes only what is missing. With --recordings about
half of the sources there are recordings of are real: in the training split those of split train, in the other of test.
"""

import argparse
import os
from pathlib import Path

from macs.audio import AudioError
from macs.options import integer
from macs.script import run
from soundscapes.scenes import write_soundscapes
from soundscapes.sound.recipes import UNTAUGHT
from soundscapes.sound.recordings import Recordings


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="data", help="DATASET_NAME/ is made in here (default: data)")
    parser.add_argument("--dataset_name", default="Soundscapes", help="(default: Soundscapes)")
    parser.add_argument("--max_sources", type=int, choices=(1, 2, 3), help="scenes of 1 to so many sources in turn")
    parser.add_argument("--train", type=integer(0), default=10000, help="scenes in the training split (default: 10000)")
    parser.add_argument("--test", type=integer(0), default=500, help="scenes in the test split (default: 500)")
    parser.add_argument("--seed", type=integer(0), default=0, help="another seed gives other scenes (default: 0)")
    parser.add_argument("--stems", action="store_true", help="also write each source as stems/<id>_<label>.wav")
    parser.add_argument(
        "--num_workers", type=integer(0), default=os.cpu_count(), help="processes (default: one per core)"
    )
    parser.add_argument("--recordings", default="", help="folder made by soundscapes/prepare_recordings.py, if any")
    taught = "every other scene is this sound, which the embedded model has not learnt, alone or in an ambience"
    parser.add_argument("--taught", choices=UNTAUGHT, help=taught)
    args = parser.parse_args(argv)

    counts = {"train": args.train, "test": args.test}
    recordings = {}
    for split, count in counts.items():
        if args.recordings and count:
            try:
                recordings[split] = Recordings(args.recordings, split)
            except AudioError as error:
                raise SystemExit(f"--recordings {error}") from None
    write_soundscapes(
        args.data_dir, counts, args.seed, args.stems, args.num_workers, args.dataset_name, args.max_sources, recordings,
        args.taught,
    )  # fmt: skip
    print(f"Wrote {args.train} training and {args.test} test scenes to {Path(args.data_dir) / args.dataset_name}")


if __name__ == "__main__":
    run(main)
