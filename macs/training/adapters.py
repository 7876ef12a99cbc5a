"""The adapter of stage two: what it begins as, and what is written of it at the end."""

import json
from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel

from macs.adapter import AudioAdapter
from macs.files import write_folder_beside
from macs.loading import open_trained
from macs.released import CheckpointError, export_released
from macs.training.accelerator import TrainingError
from macs.training.denoiser import Denoiser
from macs.weights import check_model_folder


def make_adapter(unet, sd_path, num_sources, embedding_dim, seed, prediction_type=None):
    """A new adapter, whose keys and values start as the text's. sd_path a MACS pipeline: with its projector's sizes."""
    path = Path(sd_path) / "adapter" / "config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    sizes = {name: settings[name] for name in ("hidden_dim", "dropout") if name in settings}
    set_seed(seed)  # the same start in every process
    return AudioAdapter.from_unet(unet, num_sources, embedding_dim, **sizes, prediction_type=prediction_type)


def open_adapter(path, num_sources, embedding_dim):
    """The adapter to go on from. Raises CheckpointError where it was made for other sources or embeddings."""
    check_model_folder(path)
    adapter = AudioAdapter.from_pretrained(path, torch_dtype=torch.float32)
    found = adapter.config.num_sources, adapter.config.embedding_dim
    if found != (num_sources, embedding_dim):
        raise CheckpointError(
            f"{path}: made for M = {found[0]} and embeddings of {found[1]} numbers, expected M = {num_sources} and "
            f"{embedding_dim}"
        )
    return adapter


def save_result(output_dir, sd_path, state_dict, adapter, trainable, origin, released_name=None):
    """Writes OUTPUT_DIR/adapter in half precision; with trainable "unet" the whole OUTPUT_DIR/pipeline too.

    state_dict: of the `Denoiser` that was trained, on the UNet of the folder sd_path. origin: {option: value}, what the
    adapter needs to be heard with. released_name: of the dataset, to write the authors' format too.
    Raises TrainingError where it cannot be written.
    """
    unet = UNet2DConditionModel.from_pretrained(sd_path, subfolder="unet", torch_dtype=torch.float32)
    config = adapter.config
    adapter = AudioAdapter.from_unet(
        unet, config.num_sources, config.embedding_dim, config.hidden_dim, config.dropout, config.prediction_type
    )
    Denoiser(unet, adapter, trainable).load_state_dict(state_dict)
    output_dir = Path(output_dir)
    try:
        if released_name:
            export_released(unet, adapter, output_dir, released_name)
            print(f"In the authors' format: {output_dir}/{released_name}_mlp.pt and _unet.pt")
        target = output_dir / "adapter"
        with write_folder_beside(target) as partial:
            adapter.half().save_pretrained(partial)
            (partial / "trained_with.json").write_text(json.dumps(origin, indent=2))
        print(f"Trained adapter: {target}. Hear it: SD_PATH={origin['sd_path']} PT_PATH={target} bash inference.sh")
        if trainable == "unet":
            target = output_dir / "pipeline"
            pipe = open_trained(sd_path, output_dir / "adapter", torch.float16)
            with adapter.detached(unet), pipe.adapter.detached(pipe.unet):
                pipe.unet.load_state_dict(unet.state_dict())
            with write_folder_beside(target) as partial:
                pipe.save_pretrained(partial)
            print(f"Trained pipeline: {target}. Hear it: SD_PATH={target} bash inference.sh")
    except OSError as error:
        raise TrainingError(
            f"{output_dir}: the result could not be written ({error}); make room and call again with --resume latest"
        ) from error
