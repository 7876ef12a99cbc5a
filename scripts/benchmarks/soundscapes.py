"""How many mixtures and pictures of the synthetic world one process makes per second."""

from benchmarks.timing import interleaved
from soundscapes.scenes import make_scene


def add_arguments(parser):
    parser.add_argument("--scenes", type=int, default=64, help="scenes in each repeat")


def run(args):
    makers = {
        "mixtures": lambda: [make_scene("train", index).mixture for index in range(args.scenes)],
        "pictures": lambda: [make_scene("train", index).image for index in range(args.scenes)],
    }
    for name, seconds in interleaved(makers).items():
        print(f"{name}: {args.scenes / seconds:.0f} per second")
