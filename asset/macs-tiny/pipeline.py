"""MACSPipeline of the installed package macs, for diffusers' from_pretrained(..., trust_remote_code=True)."""

import importlib

try:
    MACSPipeline = importlib.import_module("macs.pipeline").MACSPipeline
except ImportError as error:
    raise ImportError("this model needs the Python package macs: pip install . in a copy of its repository") from error
