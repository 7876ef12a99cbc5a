"""What the benchmarks share: fair times, and peak memory."""

import ctypes
import statistics
import time
from pathlib import Path

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def interleaved(functions, repeats=5, device="cpu"):
    """Runs each of {name: function} once to warm up, then `repeats` times in turn; returns {name: median seconds}."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_memory(function, device="cpu"):
    """Peak memory (MiB) that a call takes beyond what is held before it; on the CPU of the whole process, on Linux."""

    def resident(entry):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
        return int(line.split()[1]) / 1024

    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)  # freed memory counts as resident until it is given back
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    function()
    return resident("VmHWM") - before
