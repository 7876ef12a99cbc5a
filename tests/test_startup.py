"""What is not imported before it is needed: by module names, for seconds differ from machine to machine."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.optimization import SchedulerType

from macs.script import importing
from macs.training.options import SCHEDULERS

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    "inference.py", "train.py", "train_separator.py", "app.py", "storyboard.py", "film.py", "scripts/evaluate.py",
]  # fmt: skip
RUN_SCRIPT = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *(name for name in ("torch", "diffusers", "gradio", "numpy") if name in sys.modules))
"""


def printed(code, *arguments):
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.returncode, result.stdout.splitlines(), result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_mistakes_come_at_once(script):
    code, lines, _ = printed(RUN_SCRIPT, script, "--help")
    assert code == 0 and lines[0].startswith("usage:") and lines[-1] == "imported:"
    code, lines, errors = printed(RUN_SCRIPT, script, "--no_such_option")
    assert code == 2 and "error:" in errors and lines[-1] == "imported:"


def test_schedules_are_those_of_diffusers():
    assert SCHEDULERS == tuple(kind.value for kind in SchedulerType)


def test_garbage_is_collected_again_after_imports(monkeypatch):
    calls = []
    monkeypatch.setattr("gc.freeze", lambda: calls.append(gc.isenabled()))
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() and not calls  # nothing was imported
    with pytest.raises(ImportError), importing():
        monkeypatch.setitem(sys.modules, "macs.something_new", sys)
        raise ImportError
    assert gc.isenabled() and calls == [True]
