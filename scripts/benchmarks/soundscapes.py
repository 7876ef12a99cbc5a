"""How many mixtures and pictures of the synthetic world one process makes per second."""

from macs.data.soundscapes import make_scene
from scripts.benchmarks.timing import interleaved


def add_arguments(parser):
    parser.add_argument("--scenes", type=int, default=64, help="scenes in each repeat")


def run(args):
    makers = {
        "mixtures": lambda: [make_scene("train", index).mixture for index in range(args.scenes)],
        "pictures": lambda: [make_scene("train", index).image for index in range(args.scenes)],
    }
    for name, seconds in interleaved(makers).items():
        print(f"{name}: {args.scenes / seconds:.0f} per second")
