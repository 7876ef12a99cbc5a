"""What inference.py draws with besides the sound: pictures to start from, a mask, a ControlNet, LoRAs, another sampler.

Everything that can be wrong is found before a model is opened; what belongs to one clip costs that clip alone.
"""

import importlib.util
from pathlib import Path

from PIL import Image

from macs.data.pairs import to_rgb
from macs.options import number

# diffusers' for Stable Diffusion, without the ones that need another package or another noise schedule
SCHEDULERS = (
    "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete",
    "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM",
    "UniPCMultistep",
)  # fmt: skip


def scheduler(text):
    """The argparse type of a scheduler's name, with or without its ending: ddim -> DDIMScheduler."""
    known = {name.lower(): f"{name}Scheduler" for name in SCHEDULERS}
    name = text.lower().removesuffix("scheduler")
    if name not in known:
        raise ValueError(f"--scheduler: expected one of {', '.join(SCHEDULERS)}, but got {text!r}")
    return known[name]


def weighted(text):
    """The argparse type of PATH_OR_ID:WEIGHT -> (path or id, weight); 1 without a weight."""
    path, _, weight = text.rpartition(":")
    try:
        return path or text, float(weight) if path else 1.0
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


def check_options(parser, args):
    """Ends the script where options do not go together, or what they name is not there."""
    try:
        args.scheduler = args.scheduler and scheduler(args.scheduler)
    except ValueError as error:
        parser.error(str(error))
    pictures = [name for name in ("init_image", "mask", "control_image") if getattr(args, name)]
    if bool(args.controlnet) != bool(args.control_image):
        parser.error("--controlnet and --control_image belong together")
    if args.init_image and args.controlnet:
        parser.error("--init_image and --controlnet: choose one")
    if not args.init_image and (args.mask or args.strength is not None):
        parser.error("--mask and --strength need --init_image")
    if args.init_image and int(args.steps * (0.8 if args.strength is None else args.strength)) < 1:
        parser.error(f"--strength {args.strength} of {args.steps} steps leaves none to draw; give more of either")
    if pictures and args.interpolate:
        parser.error(f"--interpolate draws from noise; leave --{pictures[0]} out")
    for name in pictures:
        if not Path(getattr(args, name)).exists():
            parser.error(f"--{name} {getattr(args, name)}: no such file or folder")
    if args.lora and importlib.util.find_spec("peft") is None:
        parser.error("--lora needs the package peft: pip install peft")
    for path, _ in args.lora:
        # an id has one slash and no ending
        if not Path(path).exists() and (path.count("/") != 1 or Path(path).suffix):
            parser.error(f"--lora {path}: no such file or folder, and no hub id (owner/name)")


def open_picture(path):
    """A file -> a PIL picture in RGB, upright. ValueError with one line for what is none."""
    try:
        with Image.open(path) as picture:
            return to_rgb(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a picture, but: {str(error).splitlines()[0]}") from error


def pair_pictures(args, clips):
    """({clip: {"image": path, "mask_image": path}} of the clips that have all they need, [problems]).

    A folder's pictures belong to the clips of their names. All are opened once, so that none fails later.
    """
    options = {"image": args.init_image or args.control_image, "mask_image": args.mask}
    options = {argument: Path(path) for argument, path in options.items() if path}
    listings = {argument: _pictures_by_name(path) for argument, path in options.items() if path.is_dir()}
    pairs, problems, sizes = {}, [], {}
    for name, clip in clips.items():
        try:
            pairs[name] = {argument: _one_of(listings, argument, path, name) for argument, path in options.items()}
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


def equip(pipe, args):
    """The pipeline with the sampler, the LoRAs and in the form that the options ask for. ValueError: do not fit."""
    import diffusers

    if args.scheduler:
        pipe.scheduler = getattr(diffusers, args.scheduler).from_config(pipe.scheduler.config)
    names = [f"lora_{i}" for i in range(len(args.lora))]
    for name, (path, _) in zip(names, args.lora, strict=True):
        try:
            pipe.load_lora_weights(path, adapter_name=name, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            reason = next(line.strip() for line in reversed(str(error).splitlines() or ["?"]) if line.strip())
            raise ValueError(f"--lora {path}: is no LoRA for {args.sd_path} ({reason})") from error
    if names:
        pipe.set_adapters(names, [weight for _, weight in args.lora])
    if not (args.init_image or args.controlnet):
        return pipe

    from macs.pipelines import MACSControlNetPipeline, MACSImg2ImgPipeline, MACSInpaintPipeline

    if args.controlnet:
        form = MACSControlNetPipeline(**pipe.components, controlnet=open_controlnet(args.controlnet, pipe.unet))
    else:
        form = (MACSInpaintPipeline if args.mask else MACSImg2ImgPipeline)(**pipe.components)
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
        if str(expected) != str(found):
            raise ValueError(
                f"--controlnet {path}: was made for another model, with {name} {found} where this one has {expected}"
            )
    return controlnet.to(unet.device)


def call_settings(args, pipe):
    """What the options add to every call: a size for the pictures, which the model's is by default, and strength."""
    if not (args.init_image or args.controlnet):
        return {}
    sides = pipe.unet.config.sample_size
    sides = args.size or [pipe.vae_scale_factor * s for s in ([sides] if isinstance(sides, int) else sides)]
    strength = {"strength": 0.8 if args.strength is None else args.strength} if args.init_image else {}
    return {"height": sides[0], "width": sides[-1]} | strength
