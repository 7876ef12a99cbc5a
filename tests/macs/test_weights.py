"""Half-copied weights folders: whatever file is missing, cut off or of another kind, one line names it."""

import json
import shutil

import pytest

from macs.loading import load_pipeline, local_folder, open_clap, open_one_separator
from macs.released import CheckpointError
from macs.training.adapters import open_adapter


@pytest.fixture
def copy(tiny_dir, tmp_path):
    return shutil.copytree(tiny_dir, tmp_path / "copy")


def needed_files(folder):
    """All but the loaders, which only those need who know diffusers alone."""
    return sorted(path.relative_to(folder) for path in folder.glob("*/*") if path.suffix != ".py")


def broken(content, suffix):
    """What a copy that broke off, or a disk, can make of a file: {what: content}, None for no file."""
    found = {"missing": None, "empty": b"", "cut": content[: len(content) * 2 // 3], "zeros": bytes(len(content))}
    return found | ({"a list": b"[1, 2]"} if suffix == ".json" else {})


def test_every_broken_file_is_named_before_anything_is_loaded(copy, monkeypatch):
    monkeypatch.setattr("macs.loading.MACSPipeline", None)  # not reached
    files = needed_files(copy)
    assert len(files) > 15
    for file in files:
        content = (copy / file).read_bytes()
        for what, damage in broken(content, file.suffix).items():
            (copy / file).unlink() if damage is None else (copy / file).write_bytes(damage)
            with pytest.raises(CheckpointError) as error:
                load_pipeline(copy)
            # without its only weights the folder is named
            assert str(copy / file.parent) in str(error.value) and "\n" not in str(error.value), (file, what)
            assert file.name in str(error.value) or (file.suffix == ".safetensors" and damage is None), (file, what)
            with pytest.raises(CheckpointError):
                local_folder(copy)
        (copy / file).write_bytes(content)


def test_weights_to_start_from_are_named_too(copy):
    starts = {"separator": open_one_separator, "clap": open_clap, "adapter": lambda path: open_adapter(path, 6, 256)}
    for part, opened in starts.items():
        folder = copy / part
        opened(folder)
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=f"{part}/{file.name}: .*truncated"):
            opened(folder)
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=f"{part}/config.json"):
            opened(folder)


def test_a_pipeline_of_another_kind_is_one_line(copy, tmp_path):
    config = json.loads((copy / "separator/config.json").read_text())
    (copy / "separator/config.json").write_text(json.dumps(config | {"num_sources": "six"}))
    with pytest.raises(CheckpointError, match="copy: the weights cannot be opened") as error:
        load_pipeline(copy)
    assert "\n" not in str(error.value)
    (copy / "separator/config.json").write_text(json.dumps(config))
    adapter = shutil.copytree(copy / "adapter", tmp_path / "adapter")
    (adapter / "trained_with.json").write_text("{")
    with pytest.raises(CheckpointError, match="adapter/trained_with.json: expected"):
        load_pipeline(copy, adapter)
    weights = next(adapter.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    (adapter / "trained_with.json").unlink()
    with pytest.raises(CheckpointError, match=f"adapter/{weights.name}: .*truncated"):
        load_pipeline(copy, adapter)
    assert load_pipeline(copy).num_sources == config["num_sources"]
