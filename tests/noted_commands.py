"""Runs shell scripts whose `python` and `accelerate` only note how they were called, and checks the options they give.

A real run takes minutes even with the smallest budgets, since many programs start one after another. What the programs
do is tested with their own scripts.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# notes its arguments; fails where they hold $FAIL_AT, after leaving a checkpoint as a training that is interrupted
PROGRAM = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
if sys.argv[1] == "scripts/satisfied.py" or sys.argv[1] == "-c" and "torch.cuda" in sys.argv[2]:
    sys.exit(0)
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
if os.environ["FAIL_AT"] and os.environ["FAIL_AT"] in " ".join(sys.argv):
    folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
    (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    sys.exit(1)
"""


def run_noting(script, folder, fail_at="", **variables):
    """Runs the script with variables; returns its result and the noted commands, [[program, arguments ...]]."""
    for name in ("python", "accelerate"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PROGRAM)
        path.chmod(0o755)
    calls = folder / "calls.jsonl"
    calls.write_text("")
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}
    environment |= {"FAIL_AT": fail_at, "WORK_DIR": str(folder / "work")} | variables
    result = subprocess.run(["bash", str(ROOT / script)], env=environment, capture_output=True, text=True)
    return result, [json.loads(line) for line in calls.read_text().splitlines()]


def option(command, name):
    return command[command.index(f"--{name}") + 1]


class Parsed(Exception):
    """The options of a script were accepted."""


def check_options_are_known(commands, monkeypatch):
    """Every script named in the commands takes the options it was given."""
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, *arguments):
        parse(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for program, *arguments in commands:
        if arguments[0] == "-c":
            continue
        script = next(place for place, word in enumerate(arguments) if word.endswith(".py"))
        assert script == 0 or program == "accelerate"
        module = importlib.import_module(arguments[script].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(sys, "argv", arguments[script:])
        with pytest.raises(Parsed):
            module.main()
