"""What the benchmarks share: fair times, and peak memory."""

import ctypes
import statistics
import time
from pathlib import Path

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def interleaved(functions, repeats=5, device="cpu", least=0.5):
    """Median seconds of a call of each of {name: function}, over `repeats` turns after one to warm up.

    They take turns, so that all meet the same noise; quick ones are called until a turn lasts `least` seconds.
    """
    seconds, calls = {name: [] for name in functions}, dict.fromkeys(functions, 1)
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            turn = time.perf_counter() - start
            if repeat:
                seconds[name].append(turn / calls[name])
            else:
                calls[name] = max(1, round(least / turn))
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
