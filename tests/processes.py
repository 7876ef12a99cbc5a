"""Runs scripts in processes of their own, killed and joined as any other, that need not import torch first.

multiprocessing's fork server imports the scripts once; every process is forked from it. That a script runs from a bare
`python` is tested where that is the point (tests/test_startup.py, tests/test_inference.py).
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["train", "train_separator"])


def _run(script, words, environment, num_threads, printed):
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(num_threads)  # sums, and so the last bits, depend on it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


class Script:
    """A script that runs. `process`: multiprocessing's."""

    def __init__(self, script, *words, **variables):
        handle, self.printed = tempfile.mkstemp(suffix=".txt")
        os.close(handle)
        words = [str(word) for word in words]
        arguments = (str(script), words, os.environ | variables, torch.get_num_threads(), self.printed)
        self.process = FORK_SERVER.Process(target=_run, args=arguments)
        self.process.start()

    def output(self):
        """What it has printed."""
        return Path(self.printed).read_text()

    def kill(self):
        """SIGKILL, and its end."""
        self.process.kill()
        self.process.join()
        os.remove(self.printed)

    def finish(self, timeout=300):
        """What it printed; it must end well."""
        self.process.join(timeout)
        output = self.output()
        os.remove(self.printed)
        assert self.process.exitcode == 0, output
        return output


def finish_together(script, *words, **variables):
    """Runs two processes of one training, with the variables that `accelerate launch` sets; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [Script(script, *words, RANK=rank, LOCAL_RANK=rank, **variables) for rank in "01"]
    return [script.finish() for script in both]
