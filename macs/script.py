"""How the scripts begin and end: quick imports; an exit code, and one line where Ctrl-C ends them."""

import contextlib
import gc
import multiprocessing
import os
import sys

INTERRUPTED = 130  # what shells give a process that SIGINT ended


@contextlib.contextmanager
def importing():
    """A `with` block for a script's imports of torch, diffusers and transformers, which take a sixth less time in it.

    What they make stays until the end. Python's garbage collection would look through it again and again, while it
    is imported and afterwards; it is paused here and then leaves out what is there.
    """
    imported = len(sys.modules)
    gc.disable()
    try:
        yield
    except KeyboardInterrupt:
        interrupted()
    finally:
        gc.enable()
        if len(sys.modules) > imported:  # else nothing here is new, and what others have made may be garbage one day
            gc.freeze()


def interrupted():
    """Says so, in one line of all processes, and exits."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
    sys.exit(INTERRUPTED)


def run(main):
    """Runs a script's main() and exits with what it returns; Ctrl-C ends it and its processes with one line.

    What was written beside is removed by its `with` on the way; the scripts' outputs are whole, so a rerun goes on.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        for process in multiprocessing.active_children():
            process.join(5)
        interrupted()
