"""How the scripts end: by their exit code, and with one line where Ctrl-C ends them."""

import multiprocessing
import os
import sys

INTERRUPTED = 130  # what shells give a process that SIGINT ended


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
        if os.environ.get("RANK", "0") == "0":
            print(f"{os.path.basename(sys.argv[0])}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
