"""Whether a folder of weights is whole: a copy or download that broke off is named before anything is loaded."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from macs.released import CheckpointError

WEIGHTS = (".safetensors", ".bin")
# What a component's folder must hold at least, by a word in its class: one file of each group. Others are models
NEEDED = {
    "Scheduler": [("scheduler_config.json",)],
    "Tokenizer": [("tokenizer_config.json",), ("tokenizer.json", "vocab.json", "vocab.txt", "sentencepiece.bpe.model")],
    "Processor": [("preprocessor_config.json",)],
    "Extractor": [("preprocessor_config.json",)],
}
COPY_AGAIN = "copy or download the folder again"


def check_pipeline_folder(folder, unused=()):
    """Raises CheckpointError, which names the file, where a saved pipeline's folder is not whole.

    unused: components whose weights are not read. Components without any folder are the pipeline's matter: some are
    optional.
    """
    index = _read_json(Path(folder) / "model_index.json")
    for name, kind in index.items():
        path = Path(folder) / name
        if not (isinstance(kind, list) and len(kind) == 2 and kind[1] and path.is_dir()):
            continue
        needed = next((files for word, files in NEEDED.items() if word in kind[1]), None)
        if needed:
            _check_files(path)
            for group in needed:
                if not any((path / file).is_file() for file in group):
                    raise CheckpointError(f"{path / group[0]}: no such file; {COPY_AGAIN}")
        else:
            check_model_folder(path, name not in unused)


def check_model_folder(folder, with_weights=True):
    """Raises CheckpointError, which names the file, where a model's folder lacks or breaks off one of its files."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder / 'config.json'}: no such file; {COPY_AGAIN}")
    _check_files(folder)
    if with_weights and not any(path.suffix in WEIGHTS for path in folder.iterdir()):
        raise CheckpointError(f"{folder}: no weights in it (such as model.safetensors); {COPY_AGAIN}")


def _check_files(folder):
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".json":
            _read_json(path)
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt"):  # reads the header and holds the size against it
                    pass
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path}: cannot be read, it is truncated or damaged ({error}); {COPY_AGAIN}"
                ) from None
        elif path.suffix in WEIGHTS and path.stat().st_size == 0:
            raise CheckpointError(f"{path}: the file is empty; {COPY_AGAIN}")


def _read_json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected a JSON object, but it cannot be read ({error}); {COPY_AGAIN}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, but got a {type(content).__name__}; {COPY_AGAIN}")
    return content
