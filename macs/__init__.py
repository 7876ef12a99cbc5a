"""MACS: images from sound with several sources (Multi-source Audio-to-image generation, arXiv 2503.10287)."""

import importlib

_MODULES = {
    "MACSPipeline": "pipeline",
    "MACSXLPipeline": "xl",
    "Separator": "separator",
    "ClapEncoder": "clap",
    "AudioAdapter": "adapter",
    "AudioProjector": "adapter",
}
__all__ = list(_MODULES)


def __getattr__(name):
    # Imported on first use: diffusers takes seconds, which scripts that only read data need not wait for.
    if name not in _MODULES:
        raise AttributeError(f"module 'macs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"macs.{_MODULES[name]}"), name)
