"""How the scripts end."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from macs.script import importing, run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("result, code", [(None, None), (3, 3)])
def test_the_exit_code_is_what_main_returns(result, code):
    with pytest.raises(SystemExit) as end:
        run(lambda: result)
    assert end.value.code == code


def test_ctrl_c_while_importing_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as end, importing():
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err.count("\n") == 1


def test_every_script_ends_by_it():
    scripts = [*ROOT.glob("*.py"), *(path for room in ("scripts", "download", "soundscapes") for path in
                                     (ROOT / room).glob("**/*.py"))]  # fmt: skip
    endings = {
        path: ast.unparse(node.body[0])
        for path in scripts
        if path.name != "satisfied.py"  # runs before it is known that anything is installed
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    }
    assert len(endings) > 20 and set(endings.values()) == {"run(main)"}


def interrupted(arguments, is_busy, send):
    """Starts a script in a session of its own, interrupts it when it is busy -> (exit code, its stderr)."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 600
        while not is_busy():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        send(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=600)
        with pytest.raises(ProcessLookupError):  # nobody of the session is left
            os.killpg(process.pid, 0)
        return process.returncode, printed
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


# a shell ignores SIGINT for what it runs in the background
LISTEN = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
BUSY = """
import multiprocessing, pathlib, sys, time
from macs.script import importing, run

def main():
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(3000,)).start()
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(3000)

run(main)
"""


def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path):
    script, ready = tmp_path / "busy.py", tmp_path / "ready"
    script.write_text(LISTEN + BUSY)
    assert interrupted([script, ready], ready.exists, os.kill) == (130, "busy.py: interrupted\n")


@pytest.mark.slow
def test_ctrl_c_while_workers_write(tmp_path):
    start = LISTEN + "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = ["-c", start, "soundscapes/make_soundscapes.py", "--data_dir", tmp_path, "--train", "2000"]
    code, printed = interrupted(
        [*command, "--num_workers", "2"], lambda: len(list(tmp_path.rglob("*.wav"))) > 3, os.killpg
    )
    assert code == 130 and printed.endswith("make_soundscapes.py: interrupted\n") and "Traceback" not in printed
    assert not list(tmp_path.rglob(".partial-*"))
