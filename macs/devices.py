"""What a device can do: precisions, the compiler, memory; and what makes drawing quicker on it."""

import platform
import warnings

import torch

DECODED_AT_ONCE = 4 * 512 * 512  # pixels; more are decoded picture by picture


def best_device():
    """The accelerator of this machine, or its CPU, as a torch.device."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def check_device(device, precision, compiled=False):
    """Raises ValueError where a torch.device cannot do what is asked for; warns where it is slower than without."""
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--mixed_precision fp16 needs a GPU; on a CPU use no or bf16")
    if precision == "bf16" and device.type == "cpu" and not has_bf16():
        warnings.warn("this processor has no bf16 instructions: float32 is quicker", stacklevel=1)
    if compiled:
        check_compiler(device)


def has_bf16():
    """Whether the CPU computes bf16 in hardware; of others than x86 it is taken for granted."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def check_compiler(device):
    """Compiles a line of arithmetic for the device. Raises ValueError where that cannot be done."""
    try:
        torch.compile(lambda x: x.sin() + 1, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever torch, Triton or the C++ compiler make of it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"--compile: nothing can be compiled for {device} here ({reason}); a CPU needs a C++ compiler (g++), a GPU "
            "Triton and a C compiler. Leave --compile out, or install them"
        ) from error


def speed_up(pipe, images, size=None, compiled=False, fullgraph=True):
    """Sets a pipeline to draw quickly, in place.

    images: how many are drawn at a time, of size (height, width), by default the model's; many are decoded one by one.
    compiled: the transformer blocks of the UNet are compiled, each kind once. fullgraph: without breaks, which cannot
    be where the attention is recorded (`output_maps`).
    """
    if pipe.unet.device.type == "cuda" or compiled:
        for part in (pipe.unet, pipe.vae):
            part.to(memory_format=torch.channels_last)
    if compiled:
        # a version for every width and number of places, with weights or regions as many more
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        pipe.unet.compile_repeated_blocks(fullgraph=fullgraph)
    height, width = (size[0], size[-1]) if size else pipe.own_size
    if images * height * width > DECODED_AT_ONCE:
        pipe.vae.enable_slicing()


def out_of_memory(error):
    """Whether a RuntimeError says that a GPU's or the computer's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def memory_advice(device, settings):
    """The message for such an error. settings: {what to change, in words: whether that is still open}."""
    left = [words for words, is_open in settings.items() if is_open]
    return f"out of memory on {device}; less is needed with " + (", ".join(left) or "nothing more: a smaller model")
