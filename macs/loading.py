"""Paths and hub ids -> models: what the scripts' --sd_path, --pt_path, --separator and --clap name."""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoTokenizer

from macs.adapter import AudioAdapter
from macs.attention import check_source_masks, check_source_weights
from macs.clap import ClapEncoder
from macs.hub import class_name
from macs.pipeline import MACSPipeline
from macs.released import CheckpointError, find_released, is_xl, open_separator, open_stable_diffusion
from macs.separator import Separator
from macs.weights import check_model_folder, check_pipeline_folder
from macs.xl import MACSXLPipeline


def _is_macs(sd_path):
    """Whether sd_path is a saved MACSPipeline, else a Stable Diffusion (folder or hub id). Raises CheckpointError."""
    index = Path(sd_path) / "model_index.json"
    if Path(sd_path).exists() and not index.is_file():
        raise CheckpointError(f"{sd_path}: expected a folder with a model_index.json (MACS or Stable Diffusion)")
    if not index.is_file():
        return False
    try:
        return class_name(json.loads(index.read_text())).startswith("MACS")  # its img2img form is one too
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: expected a pipeline's JSON with a _class_name, but: {error}") from error


def _pipeline_class(sd_path):
    return MACSXLPipeline if is_xl(sd_path) else MACSPipeline


def local_folder(sd_path):
    """The folder of a pipeline: sd_path, or where a hub repository's is downloaded to, once. Raises CheckpointError."""
    if Path(sd_path).exists():
        _is_macs(sd_path)
        check_pipeline_folder(sd_path)
        return str(sd_path)
    try:
        return DiffusionPipeline.download(sd_path, safety_checker=None)
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{sd_path}: no such folder here, and no pipeline can be had from a hub repository of that name "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def audio_model_paths(sd_path, pt_path="", separator_path=""):
    """Where the separator and CLAP come from: two folders with safetensors, or twice the released .pt.

    separator_path: one that `train_separator.py` trained, in place of theirs. Raises CheckpointError.
    """
    if _is_macs(sd_path):
        separator, clap = Path(sd_path) / "separator", Path(sd_path) / "clap"
    elif not pt_path:
        raise CheckpointError(
            f"{sd_path} is Stable Diffusion without the audio part: give the released weights as pt_path, a folder or "
            "hub id (alxzzz/MACS)"
        )
    else:
        separator = clap = find_released(pt_path, "separator_FSD50K_full.pt")
    if separator_path:
        folder = Path(separator_path)
        separator = folder / "separator" if (folder / "separator").is_dir() else folder
        if not separator.exists():
            raise CheckpointError(f"{separator}: no such file or folder; expected a separator")
    return separator, clap


def separator_config(separator_path):
    """The configuration of a separator that `audio_model_paths` found, from little of it: num_sources and so on."""
    if separator_path.is_file():
        return open_separator(separator_path)[0].config  # memory-mapped
    check_model_folder(separator_path)
    return {"raise_quiet": False} | Separator.load_config(separator_path)  # older folders do not say


def check_source_settings(sd_path, pt_path, top_sources=None, source_weights=None, source_masks=None):
    """Raises ValueError where a call's settings do not fit the number of sources; read before all else is loaded."""
    # the separator of an adapter is known when it is opened
    is_adapter = pt_path and (Path(pt_path) / "config.json").is_file()
    if is_adapter or not (source_masks or source_weights or top_sources):
        return
    try:
        num_sources = separator_config(audio_model_paths(sd_path, pt_path)[0])["num_sources"]
    except (OSError, KeyError, TypeError):  # broken weights are named where they are opened
        return
    if top_sources and top_sources > num_sources:
        raise ValueError(f"expected top_sources from 1 to {num_sources}, but got {top_sources}")
    if source_weights:
        check_source_weights(source_weights, num_sources)
    if source_masks:
        check_source_masks(source_masks, num_sources, 8, 8)


def open_audio_models(separator_path, clap_path, num_sources=None):
    """The separator and CLAP from what `audio_model_paths` found, in float32 and eval mode. Raises CheckpointError.

    num_sources: M; by default the separator's, and its error where it is another. 1 is no separation: the one signal is
    the mixture, whatever the separator.
    """
    config = separator_config(separator_path)
    if num_sources == 1:
        of_weights = {name: config[name] for name in ("num_samples", "raise_quiet")}
        separator = Separator(num_sources=1, channels=16, **of_weights)
    elif num_sources not in (None, config["num_sources"]):
        raise CheckpointError(
            f"{separator_path}: expected a separator with M = {num_sources}, but it has {config['num_sources']}; M "
            "belongs to the weights: leave --M out, give --M 1 for no separation, or a separator trained with that M"
        )
    else:
        separator = open_one_separator(separator_path)
    return separator, open_clap(clap_path)


def open_one_separator(path):
    """A separator in float32 and eval mode: of the released .pt, a pipeline, or train_separator.py's folder."""
    path = Path(path)
    if path.suffix == ".pt":
        return open_separator(path)[0].float().eval()
    folder = path / "separator" if (path / "separator").is_dir() else path
    check_model_folder(folder)
    return Separator.from_pretrained(folder).float().eval()


def open_clap(path):
    """CLAP in float32 and eval mode: of the released separator .pt, a pipeline, or a ClapModel's folder or hub id."""
    path = Path(path)
    if path.suffix == ".pt":
        return open_separator(path)[1].float().eval()
    folder = path / "clap" if (path / "clap").is_dir() else path
    if folder.is_dir():  # else a hub id
        check_model_folder(folder)
    return ClapEncoder.from_pretrained(folder).float().eval()


def open_clap_tokenizer(clap_path, tokenizer_path=None):
    """The tokenizer of what `open_clap` opens: tokenizer_path if given, else CLAP's own, roberta-base for a .pt."""
    folder = Path(clap_path)
    own = "roberta-base" if folder.suffix == ".pt" else folder / "clap_tokenizer"
    return AutoTokenizer.from_pretrained(
        tokenizer_path or (own if own == "roberta-base" or own.is_dir() else clap_path)
    )


def weight_files(path):
    """The files that a model's outputs depend on: its configuration and weights, or a .pt itself."""
    path = Path(path)
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".json", ".txt", ".safetensors", ".bin"))


def check_adapter(adapter_path, sd_path):
    """Raises CheckpointError, before weights are read, where the adapter was made for another Stable Diffusion."""
    with init_empty_weights():
        adapter = AudioAdapter.from_config(AudioAdapter.load_config(adapter_path))
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd_path, subfolder="unet"))
    try:
        adapter.check_unet(unet)
        adapter.check_prediction(DDPMScheduler.load_config(sd_path, subfolder="scheduler"))
    except ValueError as error:
        raise CheckpointError(f"{adapter_path} with {sd_path}: {error}") from error


def open_trained(sd_path, adapter_path, dtype=torch.float32):
    """The pipeline that an adapter trained by train.py belongs to; trained_with.json there names its separator."""
    path = Path(adapter_path) / "trained_with.json"
    try:
        origin = json.loads(path.read_text()) if path.is_file() else {}
        pt_path, separator_path = origin.get("pt_path", ""), origin.get("separator", "")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected what train.py writes, a JSON object, but: {error}") from error
    paths = audio_model_paths(sd_path, pt_path, separator_path)
    check_adapter(adapter_path, sd_path)
    adapter = AudioAdapter.from_pretrained(adapter_path, dtype=dtype)
    separator, clap = open_audio_models(*paths, adapter.config.num_sources)
    audio = {"separator": separator, "clap": clap, "adapter": adapter}
    pipeline_class = _pipeline_class(sd_path)
    if _is_macs(sd_path):
        return pipeline_class.from_pretrained(sd_path, dtype=dtype, **audio)
    return pipeline_class(**open_stable_diffusion(sd_path, dtype), **audio)


def load_pipeline(sd_path, pt_path=None, dataset_name=None, num_sources=None, dtype=torch.float32):
    """What the scripts' `--sd_path`, `--pt_path` and `--dataset_name` name, as a MACSPipeline.

    sd_path a saved MACSPipeline: opened, with the adapter of the folder pt_path in place of its own if that is given.
    sd_path a Stable Diffusion: opened with the released weights of pt_path, or with the adapter trained for it.
    num_sources: M, if the weights must have that; it is theirs in any case. Raises CheckpointError.
    """
    is_macs = _is_macs(sd_path)
    with_adapter = pt_path and (Path(pt_path) / "config.json").is_file()
    if Path(sd_path).is_dir():
        check_pipeline_folder(sd_path, () if is_macs or with_adapter else ("unet",))
    try:
        pipe = _open_pipeline(sd_path, pt_path, dataset_name, dtype, is_macs, with_adapter)
    except (OSError, RuntimeError, TypeError, KeyError, AttributeError) as error:  # a component of the wrong kind
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{pt_path or sd_path}: the weights cannot be opened ({reason})") from error
    if num_sources not in (None, pipe.num_sources):
        raise CheckpointError(
            f"{pt_path or sd_path}: made for M = {pipe.num_sources} sources, but --M is {num_sources}; leave it out"
        )
    return pipe


def _open_pipeline(sd_path, pt_path, dataset_name, dtype, is_macs, with_adapter):
    if with_adapter:
        check_model_folder(pt_path)
        return open_trained(sd_path, pt_path, dtype)
    if is_macs and pt_path:
        raise CheckpointError(f"{pt_path}: expected an adapter folder (config.json and safetensors) beside {sd_path}")
    if is_macs:
        return _pipeline_class(sd_path).from_pretrained(sd_path, dtype=dtype)
    if pt_path:
        return MACSPipeline.from_released(sd_path, pt_path, dataset_name, dtype=dtype)
    raise CheckpointError(
        f"{sd_path} is Stable Diffusion without the audio part: give the released weights as pt_path, a folder "
        "or hub id (alxzzz/MACS), or an adapter trained with it"
    )
