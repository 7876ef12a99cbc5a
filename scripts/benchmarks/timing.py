"""What the benchmarks share: fair times, peak memory, operations, and what the device can do at most."""

import ctypes
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def interleaved(functions, repeats=5, device="cpu", least=0.5):
    """Median seconds of a call of each of {name: function}, over `repeats` turns after one to warm up.

    They take turns, every other time in reverse order, so that all meet the same noise; quick ones are called until a
    turn lasts `least` seconds.
    """
    seconds, calls = {name: [] for name in functions}, dict.fromkeys(functions, 1)
    for repeat in range(repeats + 1):
        for name, function in (list(functions.items()), list(functions.items())[::-1])[repeat % 2]:
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


def device_name(device):
    """What the figures are of: the GPU's name, or the processor's and the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def operations(function):
    """Floating point operations of a call, two for a multiply-add: of products, convolutions and attention."""
    # the attention written out: the counter does not know a CPU's own
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@torch.no_grad()
def peak_operations(device, dtype):
    """Operations a second of a large product of matrices, measured: what the device does at most in this dtype."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / interleaved({"product": lambda: a @ b}, 5, device)["product"]
