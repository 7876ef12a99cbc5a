"""What inference.py draws with besides the sound: pictures to start from, a mask, a ControlNet, LoRAs, another sampler.

Everything that can be wrong is found before a model is opened; what belongs to one clip costs that clip alone.
"""

import importlib.util
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from macs.options import number
from macs.presets import PRESETS, preset_scheduler

# diffusers' for Stable Diffusion, without the ones that need another package or another noise schedule
SCHEDULERS = (
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete",
    "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM",
    "UniPCMultistep",
)  # fmt: skip


def weighted(text):
    """The argparse type of PATH_OR_ID:WEIGHT -> (path or id, weight); 1 without a weight."""
    path, _, weight = text.rpartition(":")
    try:
        return (path, float(weight)) if path and math.isfinite(float(weight)) else (text, 1.0)
    except ValueError:
        return text, 1.0


def add_options(parser):
    add = parser.add_argument_group("drawing with more than sound").add_argument
    pictures = "a picture for all clips, or a folder with one named as each clip"
    add("--init_image", metavar="PICTURE_OR_FOLDER", help=f"what the sound changes: {pictures}")
    add("--strength", type=number(0, 1), help="how far --init_image is drawn anew, 0 to 1; 0.8 if not given")
    add("--mask", metavar="PICTURE_OR_FOLDER", help=f"draw in its white part only: {pictures}")
    add("--controlnet", metavar="PATH_OR_ID", help="draw along --control_image by this ControlNet")
    add("--control_image", metavar="PICTURE_OR_FOLDER", help=f"the ControlNet's condition: {pictures}")
    loras = "weights added to the model's, as anime.safetensors:0.7"
    add("--lora", type=weighted, nargs="+", default=[], metavar="PATH_OR_ID:WEIGHT", help=loras)
    add("--scheduler", metavar="NAME", help=f"the sampler: {', '.join(SCHEDULERS)}; the model's own if not given")
    presets = "; ".join(f"{name}: {p.scheduler}, {p.steps} steps" for name, p in PRESETS.items())
    presets = f"few steps, by a distilled model or its --lora ({presets}; no guidance); options given override it"
    add("--preset", choices=list(PRESETS), help=presets)


@dataclass
class Edits:
    """The options above, by their names. ValueError where they do not go together or what they name is not there."""

    init_image: str | None = None
    strength: float | None = None
    mask: str | None = None
    controlnet: str | None = None
    control_image: str | None = None
    lora: list = field(default_factory=list)
    scheduler: str | None = None
    preset: str | None = None

    def __post_init__(self):
        if self.scheduler:
            known = {name.lower(): f"{name}Scheduler" for name in SCHEDULERS}
            name = known.get(self.scheduler.lower().removesuffix("scheduler"))
            if name is None:
                raise ValueError(f"--scheduler: expected one of {', '.join(SCHEDULERS)}, but got {self.scheduler!r}")
            self.scheduler = name
        if bool(self.controlnet) != bool(self.control_image):
            raise ValueError("--controlnet and --control_image belong together")
        if self.init_image and self.controlnet:
            raise ValueError("--init_image and --controlnet: choose one")
        if not self.init_image and (self.mask or self.strength is not None):
            raise ValueError("--mask and --strength need --init_image")
        if self.init_image and self.strength is None:
            self.strength = 0.8
        for name in ("init_image", "mask", "control_image"):
            path = getattr(self, name)
            if path and not Path(path).exists():
                raise ValueError(f"--{name} {path}: no such file or folder")
        if self.lora and importlib.util.find_spec("peft") is None:
            raise ValueError("--lora needs the package peft: pip install peft")
        for path, _ in self.lora:
            lora_source(path)

    def check_use(self, steps, from_noise):
        """ValueError where they do not go with the number of steps, or with drawing that starts from noise alone."""
        if from_noise and (self.init_image or self.controlnet):
            raise ValueError("--interpolate draws from noise; leave --init_image and --controlnet out")
        if self.init_image and int(steps * self.strength) < 1:
            raise ValueError(f"--strength {self.strength} of {steps} steps leaves none to draw; give more of either")

    @property
    def pictures(self):
        """{argument of a call: path of a picture or a folder}"""
        paths = {"image": self.init_image or self.control_image, "mask_image": self.mask}
        return {argument: Path(path) for argument, path in paths.items() if path}


def open_picture(path):
    """A file -> a PIL picture in RGB, upright. ValueError with one line for what is none."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture, but: {str(error).splitlines()[0]}") from error


def pair_pictures(edits, clips):
    """({clip: {"image": path, "mask_image": path}} of the clips {name: path} that have all they need, [problems]).

    A folder's pictures belong to the clips of their names. All are opened once, so that none fails later.
    """
    listings = {argument: _pictures_by_name(path) for argument, path in edits.pictures.items() if path.is_dir()}
    pairs, problems, sizes = {}, [], {}
    for name, clip in clips.items():
        try:
            pairs[name] = {each: _one_of(listings, each, path, name) for each, path in edits.pictures.items()}
            for file in pairs[name].values():
                if file not in sizes:
                    sizes[file] = open_picture(file).size
            if len({sizes[file] for file in pairs[name].values()}) > 1:
                (wide, high), found = (sizes[file] for file in pairs[name].values())
                raise ValueError(
                    f"{pairs[name]['mask_image']}: expected a mask of its picture's {wide}x{high} pixels, but got "
                    f"{found[0]}x{found[1]}"
                )
        except ValueError as error:
            problems.append(f"{clip}: {error}")
            pairs.pop(name, None)
    return pairs, problems


def _pictures_by_name(folder):
    """{name without ending: [files]} of the pictures in a folder."""
    known, files = Image.registered_extensions(), {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in known:
            files.setdefault(file.stem, []).append(file)
    return files


def _one_of(listings, argument, path, name):
    if argument not in listings:
        return path
    found = listings[argument].get(name, [])
    if len(found) != 1:
        raise ValueError(f"expected one picture named {name} in {path}, but there are {len(found)}")
    return found[0]


def read_pictures(pipe, pairs, size):
    """Paths as `pair_pictures` found them, a dict for each clip -> arguments of a call, pictures of size (h, w)."""
    arguments = {}
    for files in pairs:
        for argument, path in files.items():
            picture = pipe.image_processor.resize(open_picture(path), *size)
            if argument == "mask_image":
                picture = picture.convert("L").point(lambda value: 255 * (value >= 128))  # as the pipeline takes it
            arguments.setdefault(argument, []).append(picture)
    return arguments


def paste(pipe, drawn, pictures, num_images):
    """Images drawn with a mask -> with the original's own pixels outside of it."""
    return [
        pipe.image_processor.apply_overlay(
            pictures["mask_image"][i // num_images], pictures["image"][i // num_images], image
        )
        for i, image in enumerate(drawn)
    ]


def lora_source(path):
    """(folder, file or hub id, further arguments) of `load_lora_weights`. ValueError: nothing that can be one.

    path: a file or folder; owner/name, a repository of the hub; owner/name/FILE.safetensors, one file of it.
    """
    owner, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    if Path(path).exists():
        return path, {}
    if owner and file.endswith(".safetensors"):
        return f"{owner}/{name}", {"weight_name": file}
    if not (owner and name) or file or name.endswith(".safetensors"):
        raise ValueError(
            f"--lora {path}: no such file or folder, and nothing on the hub (owner/name, owner/name/FILE.safetensors)"
        )
    return path, {}


def equip(pipe, edits):
    """The pipeline with the sampler, the LoRAs and in the form that the options ask for. ValueError: do not fit."""
    import diffusers

    if edits.preset:
        if PRESETS[edits.preset].lora and not edits.lora:
            warnings.warn(
                f"--preset {edits.preset} without --lora is for a model distilled for it; others want the LoRA, such "
                f"as {PRESETS[edits.preset].lora}",
                stacklevel=1,
            )
        pipe.scheduler = preset_scheduler(edits.preset, pipe.scheduler, edits.scheduler)
    elif edits.scheduler:
        pipe.scheduler = getattr(diffusers, edits.scheduler).from_config(pipe.scheduler.config)
    names = [f"lora_{i}" for i in range(len(edits.lora))]
    for name, (path, _) in zip(names, edits.lora, strict=True):
        try:
            source, file = lora_source(path)
            pipe.load_lora_weights(source, adapter_name=name, use_safetensors=True, **file)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            reason = next(line.strip() for line in reversed(str(error).splitlines() or ["?"]) if line.strip())
            raise ValueError(f"--lora {path}: is no LoRA for this model ({reason})") from error
    if names:
        pipe.set_adapters(names, [weight for _, weight in edits.lora])
    if not (edits.init_image or edits.controlnet):
        return pipe

    if hasattr(pipe, "text_encoder_2"):
        raise ValueError("--init_image and --controlnet: not with Stable Diffusion XL, which draws from noise here")
    from macs.pipelines import MACSControlNetPipeline, MACSImg2ImgPipeline, MACSInpaintPipeline

    if edits.controlnet:
        form = MACSControlNetPipeline(**pipe.components, controlnet=open_controlnet(edits.controlnet, pipe.unet))
    else:
        form = (MACSInpaintPipeline if edits.mask else MACSImg2ImgPipeline)(**pipe.components)
    form.set_progress_bar_config(disable=True)
    return form


def open_controlnet(path, unet):
    """A ControlNet (folder or hub id) on the UNet's device and in its dtype. ValueError: none, or for another UNet."""
    from diffusers import ControlNetModel

    try:
        controlnet = ControlNetModel.from_pretrained(path, dtype=unet.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"--controlnet {path}: expected a ControlNet ({str(error).splitlines()[0]})") from error
    for name in ("in_channels", "cross_attention_dim", "block_out_channels"):
        expected, found = unet.config[name], controlnet.config[name]
        if json.dumps(expected) != json.dumps(found):  # tuples and lists are alike
            raise ValueError(
                f"--controlnet {path}: was made for another model, with {name} {found} where this one has {expected}"
            )
    return controlnet.to(unet.device)


def call_settings(edits, pipe, size=None):
    """What the options add to every call: strength, and height and width, which are the model's if size is None."""
    if not edits.pictures:
        return {}
    sides = size or pipe.own_size
    return {"height": sides[0], "width": sides[-1]} | ({"strength": edits.strength} if edits.init_image else {})
