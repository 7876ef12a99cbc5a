"""The rooms of the repository (README, Map) and who may import whom: nothing back up, nothing in a circle."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# room -> the rooms it may import from, itself included
ROOMS = {
    "macs": {"macs"},
    "macs.data": {"macs", "macs.data"},
    "macs.training": {"macs", "macs.data", "macs.training"},
    "macs.evaluation": {"macs", "macs.data", "macs.evaluation"},
    "soundscapes": {"macs", "macs.data", "macs.training", "macs.evaluation", "soundscapes"},
    "download": {"macs", "macs.data", "download"},
}


def modules():
    """{module: (path, the project's modules that it imports, anywhere in it)}"""
    names = {}
    for path in [*ROOT.glob("macs/**/*.py"), *ROOT.glob("soundscapes/**/*.py"), *ROOT.glob("download/*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names[name] = path
    found = {}
    for name, path in names.items():
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= inner & names.keys() or {node.module}
        found[name] = {module for module in imported if module in names}
    return found


def room(module):
    return max((name for name in ROOMS if module == name or module.startswith(f"{name}.")), key=len)


IMPORTS = modules()


@pytest.mark.parametrize("module", sorted(IMPORTS))
def test_nothing_points_back_up(module):
    wrong = {imported for imported in IMPORTS[module] if room(imported) not in ROOMS[room(module)]}
    assert not wrong


def test_no_import_runs_in_a_circle():
    tuple(graphlib.TopologicalSorter(IMPORTS).static_order())


def test_losses_and_attention_know_nothing_of_the_project():
    assert not IMPORTS["macs.losses"] and not IMPORTS["macs.attention"]


def test_no_namespace_in_the_library():
    for name in IMPORTS:
        if room(name).startswith("macs"):
            path = ROOT / Path(*name.split("."))
            source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.FunctionDef):
                    arguments = {argument.arg for argument in node.args.args}
                    assert "args" not in arguments or "kwargs" in arguments, f"{name}.{node.name}"  # but hooks of torch
