"""Command line options: types with their ranges, and what inference.py, storyboard.py, film.py and app.py share.

A value outside of a range ends the script with one line, before any work.

parser.add_argument("--steps", type=integer(1), default=20)
"""

import argparse
import math


def integer(low, high=None):
    """An argparse type: whole numbers from low to high (no bound if None)."""

    def convert(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected a whole number {_range(low, high)}, but got {text!r}")
        return value

    return convert


def number(low=None, high=None):
    """An argparse type: finite numbers from low to high (no bound if None)."""

    def convert(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected a number {_range(low, high)}, but got {text!r}")
        return value

    return convert


def multiple_of(step):
    """An argparse type: positive multiples of step, such as pixels."""

    def convert(text):
        if not text.isdecimal() or int(text) < step or int(text) % step:
            raise argparse.ArgumentTypeError(f"expected a multiple of {step}, but got {text!r}")
        return int(text)

    return convert


def source_box(text):
    """The argparse type of "2:0,0,0.5,1" -> (1, (0, 0, 0.5, 1)): a source, counted from 0, and its box."""
    try:
        source, box = text.split(":")
        box = tuple(float(side) for side in box.split(","))
        left, top, right, bottom = box
        if int(source) < 1 or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a source from 1 and sides from 0 to 1, SOURCE:LEFT,TOP,RIGHT,BOTTOM, but got {text!r}"
        ) from None
    return int(source) - 1, box


class Size(argparse.Action):
    """One side, or height and width -> (height, width)."""

    def __call__(self, parser, namespace, sides, name):
        if len(sides) > 2:
            parser.error(f"{name} takes one side, or height and width, but got {len(sides)} numbers")
        setattr(namespace, self.dest, (sides[0], sides[-1]))


def add_weight_options(parser):
    """The options that say which pipeline is opened; returns the function that adds one beside them."""
    add = parser.add_argument_group("weights").add_argument
    add("--sd_path", default="asset/macs-tiny", help="a MACS pipeline or a Stable Diffusion (folder or hub id)")
    add("--pt_path", default="", help="the released .pt files (folder or hub id), or an adapter trained by train.py")
    add("--dataset_name", default="LLP", help="which released weights")
    precisions = ["no", "fp16", "bf16"]
    add("--mixed_precision", choices=precisions, default="no", help="of the generator; the audio stays in float32")
    return add


def add_picture_options(parser):
    """The options that say how pictures are drawn; returns the function that adds one beside them."""
    add = parser.add_argument_group("pictures").add_argument
    add("--prompt", default="", help="text beside the sound")
    add("--negative_prompt", default="", help="what the pictures shall not show")
    add("--guidance_scale", type=number(0), default=7.5, help="strength of the guidance; 1 is none")
    add("--audio_scale", type=number(), default=1.0, help="weight of the sound; 0 is Stable Diffusion alone")
    add("--steps", type=integer(1), default=20, help="denoising steps (DPM-Solver++)")
    size = "one side, or height and width; multiples of 8"
    names = ("--size", "--output_size")  # the latter is that of the authors' scripts
    add(*names, type=multiple_of(8), nargs="+", action=Size, metavar="PIXELS", help=size)
    return add


def add_public_options(parser, options):
    """Options of the authors' scripts that have no counterpart here, so that their commands end with one clear line.

    options: {name: (values, advice)}. A value among `values`, which is what this script does anyway ("" is an option
    without one), is accepted; another ends the script with the advice. They are in no --help and in no namespace.
    """

    class PublicOption(argparse.Action):
        def __call__(self, parser, namespace, given, name):
            values, advice = options[name]
            value = " ".join(given)
            if value.lower() not in values:
                parser.error(f"{name} {value}".rstrip() + f" of the authors' script means nothing here: {advice}")

    for name in options:
        hidden = {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        parser.add_argument(name, nargs="*", action=PublicOption, **hidden)


def _range(low, high):
    if low is None:
        return "that is finite" if high is None else f"of at most {high:g}"
    return f"of {low:g} or more" if high is None else f"from {low:g} to {high:g}"
