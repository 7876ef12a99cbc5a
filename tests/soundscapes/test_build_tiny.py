"""soundscapes/build_tiny.sh: its steps, their order and options. What the steps do is tested with their own scripts."""

import subprocess
from functools import partial

import pytest

from noted_commands import ROOT, check_options_are_known, option, run_noting

STEPS = [
    "model", "vae", "clap", "unet", "judge", "decoder", "stems", "clips", "separator", "clap_separated", "scenes",
    "generator_first", "generator", "identity", "baseline_first", "baseline", "assemble",
]  # fmt: skip


@pytest.fixture
def build(tmp_path):
    """Runs build_tiny.sh with variables; returns its result and the steps' commands, [[program, arguments ...]]."""
    return partial(run_noting, "soundscapes/build_tiny.sh", tmp_path, OUTPUT_DIR=str(tmp_path / "model"))


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

    check_options_are_known(commands, monkeypatch)


def test_recordings_reach_all_that_hear(build, tmp_path, monkeypatch):
    result, commands = build(RECORDINGS="my recordings")
    assert result.returncode == 0, result.stderr
    with_projection = STEPS[: STEPS.index("scenes")] + ["projection"] + STEPS[STEPS.index("scenes") :]
    by_step = dict(zip(with_projection, commands, strict=True))
    hearing = {step for step, command in by_step.items() if "--recordings" in command}
    assert hearing == {"clap", "clap_separated", "projection", "stems", "clips", "scenes"}
    assert all(option(by_step[step], "recordings") == "my recordings" for step in hearing)
    assert option(by_step["projection"], "separator") == str(tmp_path / "work" / "separator" / "separator")
    check_options_are_known(commands, monkeypatch)


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
