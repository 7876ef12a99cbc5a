"""Types of command line options with their ranges: a value outside ends the script with one line, before any work.

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
