"""How the scripts end."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from macs.script import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("result, code", [(None, None), (3, 3)])
def test_the_exit_code_is_what_main_returns(result, code):
    with pytest.raises(SystemExit) as end:
        run(lambda: result)
    assert end.value.code == code


def test_every_script_ends_by_it():
    scripts = [*ROOT.glob("*.py"), *(path for room in ("scripts", "download", "soundscapes") for path in
                                     (ROOT / room).glob("**/*.py"))]  # fmt: skip
    endings = {
        path: ast.unparse(node.body[0])
        for path in scripts
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
    }
    assert len(endings) > 20 and set(endings.values()) == {"run(main)"}


def test_ctrl_c_is_one_line_and_leaves_no_process(tmp_path):
    command = [sys.executable, "soundscapes/make_soundscapes.py", "--data_dir", str(tmp_path), "--train", "2000"]
    start = "import signal, sys, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    start += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *command[1:], "--num_workers", "2"],
        cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("*.wav"))) < 4:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 130
    assert printed.endswith("make_soundscapes.py: interrupted\n") and "Traceback" not in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not list(tmp_path.rglob(".partial-*"))
