"""The authors' released weights: opened without conversion, checked entry by entry; and the way back.

`separator_FSD50K_full.pt` (separator and CLAP), `<DATASET>_mlp.pt` (projector), `<DATASET>_unet.pt` (Stable Diffusion's
UNet with the audio keys and values).
"""

import pickle
import re
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import (
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import ClapConfig

from macs.adapter import AudioAdapter, cross_attention_sizes
from macs.clap import ClapEncoder
from macs.files import write_beside
from macs.hub import class_name
from macs.separator import Separator

# LAION's names of CLAP's parts -> transformers' (correspondence: transformers' CLAP conversion script)
CLAP_RENAMES = [
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_branch.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"(blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"(blocks\.\d+)\.attn\.", r"\1.attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
]
# Training heads, and buffers that are computed: no counterpart in transformers
CLAP_UNUSED = re.compile(
    r"audio_branch\.(tscam_conv|head|spectrogram_extractor|logmel_extractor)\.|(audio|text)_transform\.|.*attn_mask$"
    r"|.*relative_position_index$|text_branch\.embeddings\.position_ids$"
)


def clap_from_laion(state_dict):
    """LAION CLAP's state dict -> that of transformers' ClapModel: qkv split in three, unused entries left out."""
    renamed = {}
    for name, value in state_dict.items():
        if CLAP_UNUSED.match(name):
            continue
        for pattern, replacement in CLAP_RENAMES:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[name.replace("qkv", part)] = chunk
        else:
            renamed[name] = value
    return renamed


class CheckpointError(ValueError):
    """Weights that cannot be opened; the message names the file, the entry, what was expected and what came."""


def find_released(pt_path, filename):
    """A file of a local folder or of a hub repository (downloaded once into the hub's cache)."""
    folder = Path(pt_path)
    if folder.is_dir():
        if not (folder / filename).is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())[:10]) or "nothing"
            raise CheckpointError(f"{folder / filename}: no such file; the folder holds {found}")
        return folder / filename
    try:
        return Path(hf_hub_download(str(pt_path), filename))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{pt_path}: no such folder here, and {filename} cannot be had from a hub repository of that name "
            f"({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error


def _load(path):
    """A .pt file's state dict, memory-mapped; nothing but tensors is accepted."""
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors only, but it holds pickled code or is no PyTorch file, and was not opened "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read, it is truncated or no PyTorch file; download it again "
            f"({str(error).splitlines()[0]})"
        ) from error
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, but got {type(state_dict).__name__}")
    return state_dict


def _load_into(module, state_dict, path, released_name=lambda name: name):
    """Loads into a module without copying; every entry must be there with its shape, and none more.

    released_name: our name of an entry -> the one in the file, for the messages.
    """
    # computed buffers (position ids, attention indices) are the module's own
    buffers = dict(module.named_buffers())
    expected = {name: value for name, value in module.state_dict().items()}
    for name, value in expected.items():
        if name not in state_dict:
            if name in buffers and not name.endswith(("running_mean", "running_var")):
                state_dict[name] = value
                continue
            raise CheckpointError(
                f"{path}: entry {released_name(name)} is missing, expected one of shape {tuple(value.shape)}"
            )
        if state_dict[name].shape != value.shape:
            raise CheckpointError(
                f"{path}: entry {released_name(name)} has shape {tuple(state_dict[name].shape)}, expected "
                f"{tuple(value.shape)}; the file is for another M or another model"
            )
    extra = sorted(set(state_dict) - set(expected))
    if extra:
        raise CheckpointError(
            f"{path}: unexpected entry {released_name(extra[0])} of shape {tuple(state_dict[extra[0]].shape)}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + "; the file is for another model"
        )
    module.load_state_dict(state_dict, assign=True)
    return module


def open_separator(path):
    """`separator_FSD50K_full.pt` -> (Separator, ClapEncoder), both in eval mode. Raises CheckpointError.

    M is read from the file: the number of masks that the separator's last convolution makes.
    """
    state_dict = _load(path)
    last = state_dict.get("model.unet.out_conv.6.weight", torch.empty(6))
    with init_empty_weights():
        separator, clap = Separator(num_sources=last.shape[0]), ClapEncoder(ClapConfig())
    # Beside the two models the file holds CLAP a second time, MixIT's table of assignments, windows and a kernel.
    unused = re.compile(r"clap\.|unperm$|model\.(clap|stft|istft|resample)\.")
    ours = {
        name.removeprefix("model.").replace("tau2", "logit_scale"): value
        for name, value in state_dict.items()
        if not unused.match(name)
    }
    _load_into(separator, ours, path, lambda name: "model." + name.replace("logit_scale", "tau2"))
    prefix = "model.clap.model." if any(name.startswith("model.clap.") for name in state_dict) else "clap.model."
    laion = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    _load_into(clap, clap_from_laion(laion), path, lambda name: f"{name} (transformers' name, under {prefix})")
    return separator.eval(), clap.eval()


def export_separator(separator, released_path, path):
    """Writes a separator as the authors' `separator_FSD50K_full.pt`: a copy of such a file with its weights put in.

    released_path: the file that CLAP and all else come from. Raises CheckpointError where the sizes differ.
    """
    state_dict = dict(_load(released_path))
    for name, value in separator.state_dict().items():
        released_name = "model." + name.replace("logit_scale", "tau2")
        expected = state_dict.get(released_name, torch.empty(0))
        if expected.shape != value.shape:
            raise CheckpointError(
                f"{released_path}: entry {released_name} has shape {tuple(expected.shape)}, but the separator's has "
                f"{tuple(value.shape)}; the file is for another M or another model"
            )
        state_dict[released_name] = value.detach().cpu().to(expected.dtype)
    with write_beside(path) as partial:
        torch.save(state_dict, partial)


def open_generator(unet_config, mlp_path, unet_path):
    """`<DATASET>_mlp.pt` and `<DATASET>_unet.pt` -> (stock UNet, AudioAdapter), in eval mode. Raises CheckpointError.

    unet_config: the config of the Stable Diffusion it belongs to. M is read from the projector's position embedding.
    """
    projector = _load(mlp_path)
    num_sources = projector["pe"].shape[0] if "pe" in projector else 6
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(unet_config)
        layers = [list(layer) for layer in cross_attention_sizes(unet).items()]
        width = unet.config.cross_attention_dim
        # by keyword: diffusers takes positional arguments for defaults; theirs is for Stable Diffusion 1.4
        adapter = AudioAdapter(
            layers=layers, num_sources=num_sources, cross_attention_dim=width, prediction_type="epsilon"
        )
    _load_into(adapter.projector, projector, mlp_path)
    state_dict = _load(unet_path)
    for part in ("to_k_ip", "to_v_ip"):
        released_names = [f"{name}.processor.{part}.weight" for name, _ in layers]
        taken = {f"{i}.weight": state_dict.pop(n) for i, n in enumerate(released_names) if n in state_dict}
        _load_into(
            getattr(adapter, part),
            taken,
            unet_path,
            lambda name, n=released_names: n[int(name.removesuffix(".weight"))],
        )
    _load_into(unet, state_dict, unet_path)
    return unet.eval(), adapter.eval()


def is_xl(sd_path):
    """Whether a pipeline, a folder or hub id, is a Stable Diffusion XL, with sound or without. OSError if it is not."""
    return "XL" in class_name(DiffusionPipeline.load_config(sd_path))


def open_stable_diffusion(sd_path, dtype=torch.float32, **kwargs):
    """The components of Stable Diffusion, with the paper's sampler (DPM-Solver++ multistep). Raises CheckpointError.

    kwargs: go to `from_pretrained` of StableDiffusionPipeline, or of SDXL's where sd_path is one; without a
    `safety_checker` among them none is loaded.
    """
    try:
        if is_xl(sd_path):
            components = StableDiffusionXLPipeline.from_pretrained(sd_path, dtype=dtype, **kwargs).components
        else:
            kwargs = {"safety_checker": None, "requires_safety_checker": False} | kwargs
            components = StableDiffusionPipeline.from_pretrained(sd_path, dtype=dtype, **kwargs).components
    except OSError as error:
        raise CheckpointError(
            f"{sd_path}: cannot be opened as Stable Diffusion ({str(error).splitlines()[0]})"
        ) from error
    components["scheduler"] = DPMSolverMultistepScheduler.from_config(components["scheduler"].config)
    return components


def open_released(sd_path, pt_path, dataset_name, dtype=torch.float32, **kwargs):
    """The components of a MACSPipeline out of Stable Diffusion and the authors' three files.

    sd_path: folder or hub id of Stable Diffusion 1.4 (`CompVis/stable-diffusion-v1-4`); its UNet is not read.
    pt_path: folder or hub id (`alxzzz/MACS`) with `separator_FSD50K_full.pt`, `<dataset_name>_mlp.pt`,
    `<dataset_name>_unet.pt`. dtype: of the generator. kwargs: see `open_stable_diffusion`. Raises CheckpointError.
    """
    separator_path = find_released(pt_path, "separator_FSD50K_full.pt")
    mlp_path = find_released(pt_path, f"{dataset_name}_mlp.pt")
    unet_path = find_released(pt_path, f"{dataset_name}_unet.pt")
    try:
        unet_config = UNet2DConditionModel.load_config(sd_path, subfolder="unet")
    except (OSError, HFValidationError) as error:
        raise CheckpointError(f"{sd_path}: no Stable Diffusion there ({str(error).splitlines()[0]})") from error
    separator, clap = open_separator(separator_path)
    unet, adapter = open_generator(unet_config, mlp_path, unet_path)
    if separator.config.num_sources != adapter.config.num_sources:
        raise CheckpointError(
            f"{separator_path} separates into M = {separator.config.num_sources} signals, {mlp_path} expects "
            f"{adapter.config.num_sources}; the files belong to different models"
        )
    if dtype != torch.float32:  # the dtype of the files
        unet, adapter = unet.to(dtype), adapter.to(dtype)
    components = open_stable_diffusion(sd_path, dtype, unet=unet, **kwargs)
    return components | {"separator": separator, "clap": clap, "adapter": adapter}


def export_released(unet, adapter, folder, dataset_name):
    """Writes the authors' `<dataset_name>_mlp.pt` and `<dataset_name>_unet.pt`, which `from_released` opens.

    unet: with the adapter attached or stock. In float32, as theirs are.
    """
    with adapter.detached(unet):
        generator = dict(unet.state_dict())
    for (name, _), to_k, to_v in zip(adapter.config.layers, adapter.to_k_ip, adapter.to_v_ip, strict=True):
        generator[f"{name}.processor.to_k_ip.weight"] = to_k.weight
        generator[f"{name}.processor.to_v_ip.weight"] = to_v.weight
    for part, state_dict in (("mlp", adapter.projector.state_dict()), ("unet", generator)):
        with write_beside(Path(folder) / f"{dataset_name}_{part}.pt") as partial:
            torch.save({name: value.detach().float().cpu() for name, value in state_dict.items()}, partial)
