"""What a saved pipeline's folder tells diffusers, so that those who know diffusers alone can open it, from the hub too.

diffusers takes a pipeline's class from its own package or from a Python file beside model_index.json, and what it
downloads may name a component's class only in diffusers, in transformers or in a Python file of the component's folder.
So a saved pipeline holds such files, of a few lines: they import the classes of the installed package `macs`. diffusers
runs them with `trust_remote_code=True`; the classes of this package know where they are and never run them.
"""

import json
from pathlib import Path

LOADER = '''"""{name} of the installed package macs, for diffusers' from_pretrained(..., trust_remote_code=True)."""

import importlib

try:
    {name} = importlib.import_module("{module}").{name}
except ImportError as error:
    raise ImportError("this model needs the Python package macs: pip install . in a copy of its repository") from error
'''


def write_loaders(folder, pipeline_class):
    """Makes the folder of a saved pipeline known to diffusers: model_index.json then names the files written here."""
    folder = Path(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = ["pipeline", pipeline_class.__name__]
    loaders = {"pipeline.py": (pipeline_class.__module__, pipeline_class.__name__)}
    for component, value in index.items():
        module, name = value if isinstance(value, list) else (None, None)
        if str(module).startswith("macs."):
            index[component] = [module.replace(".", "_"), name]
            loaders[f"{component}/{module.replace('.', '_')}.py"] = (module, name)
    for file, (module, name) in loaders.items():
        (folder / file).write_text(LOADER.format(module=module, name=name))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def class_name(index):
    """The name of the pipeline's class in the content of a model_index.json."""
    name = index["_class_name"]
    return name if isinstance(name, str) else name[-1]


def installed_modules(index):
    """The content of a model_index.json with the modules of this package in place of the files that import them."""
    return {
        key: [value[0].replace("macs_", "macs.", 1), value[1]]
        if isinstance(value, list) and str(value[0]).startswith("macs_")
        else value
        for key, value in index.items()
    }
