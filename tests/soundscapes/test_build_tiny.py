"""soundscapes/build_tiny.sh: its steps, their order and options. What the steps do is tested with their own scripts.

A real run takes minutes even with the smallest budgets: twenty programs start, and several measure what they trained on
hundreds of held-out scenes. So `python` and `accelerate` are replaced by a program that notes how it was called.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "model", "vae", "clap", "unet", "stems", "clips", "separator", "clap_separated", "scenes", "generator_first",
    "generator", "identity", "baseline_first", "baseline", "judge", "assemble",
]  # fmt: skip
# notes its arguments; fails where they hold $FAIL_AT, after leaving a checkpoint as a training that is interrupted
PROGRAM = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path
if sys.argv[1:3] == ["-m", "pip"] or sys.argv[1] == "-c" and "torch.cuda" in sys.argv[2]:
    sys.exit(0)
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
if os.environ["FAIL_AT"] and os.environ["FAIL_AT"] in " ".join(sys.argv):
    folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
    (folder / "checkpoints" / "step-00000003").mkdir(parents=True)
    sys.exit(1)
"""


@pytest.fixture
def build(tmp_path):
    """Runs build_tiny.sh with variables; returns its result and the steps' commands, [[program, arguments ...]]."""
    for name in ("python", "accelerate"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(PROGRAM)
        path.chmod(0o755)
    calls = tmp_path / "calls.jsonl"

    def build(fail_at="", **variables):
        calls.write_text("")
        environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(calls)}
        environment |= {"FAIL_AT": fail_at, "WORK_DIR": str(tmp_path / "work"), "OUTPUT_DIR": str(tmp_path / "model")}
        command = ["bash", str(ROOT / "soundscapes" / "build_tiny.sh")]
        result = subprocess.run(command, env=environment | variables, capture_output=True, text=True)
        return result, [json.loads(line) for line in calls.read_text().splitlines()]

    return build


def option(command, name):
    return command[command.index(f"--{name}") + 1]


class Parsed(Exception):
    """The options of a script were accepted."""


def test_every_step_runs_once_with_options_that_its_script_knows(build, tmp_path, monkeypatch):
    result, commands = build(MIXED_PRECISION="bf16", VAE_SCENES="320", SEED="7", GENERATOR_EPOCHS="2")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "work" / "done").iterdir()) == sorted(STEPS)
    assert [line.split()[1].rstrip(":") for line in result.stdout.splitlines() if line.startswith("== ")][::2] == STEPS
    by_step = dict(zip(STEPS, commands, strict=True))
    work = tmp_path / "work"
    assert option(by_step["vae"], "scenes") == "320" and "--bf16" in by_step["vae"]
    assert option(by_step["generator_first"], "epochs") == "2" and option(by_step["generator"], "epochs") == "10"
    assert option(by_step["generator"], "adapter") == str(work / "generator_first" / "adapter")
    assert option(by_step["baseline"], "separator") == str(work / "identity")
    assert option(by_step["separator"], "mixed_precision") == "bf16"
    assert option(by_step["clap_separated"], "separator") == str(work / "separator" / "separator")
    assert all(option(command, "seed") == "7" for command in commands if "--seed" in command)
    assert option(by_step["assemble"], "output_dir") == str(tmp_path / "model")

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


def test_goes_on_where_it_was_and_refuses_other_settings(build, tmp_path):
    result, commands = build(fail_at="train_separator.py")
    assert result.returncode != 0 and len(commands) == STEPS.index("separator") + 1
    assert "--resume" not in commands[-1]

    result, commands = build()
    assert result.returncode == 0, result.stderr
    assert len(commands) == len(STEPS) - STEPS.index("separator")  # what was done is not done again
    assert option(commands[0], "resume") == "latest" and "train_separator.py" in commands[0]
    assert not any("--resume" in command for command in commands[1:])
    assert build()[1] == []

    result, commands = build(CLAP_SCENES="100")
    assert result.returncode == 1 and commands == []
    assert "the step 'clap' made by another command" in result.stderr and "--scenes 100" in result.stderr
    result, commands = build(WORK_DIR=str(tmp_path / "other"), CLAP_SCENES="100")
    assert result.returncode == 0 and len(commands) == len(STEPS)


def test_takes_no_arguments(build):
    command = ["bash", str(ROOT / "soundscapes" / "build_tiny.sh"), "--steps", "3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "takes variables, no arguments, but got: --steps 3" in result.stderr
