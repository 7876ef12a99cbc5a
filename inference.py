"""Images from recordings: python inference.py --audio clip.wav more/ --output_dir output (see inference.sh).

Every clip becomes <output_dir>/<clip name>.png. Outputs that exist are kept; a clip that cannot be read is reported and
the others go on. With several GPUs: accelerate launch inference.py ...
"""

import argparse
import contextlib
import dataclasses
import shlex
import sys
import warnings
from pathlib import Path

from macs import editing
from macs.options import add_picture_options, add_public_options, add_weight_options, integer, number, source_box
from macs.presets import PRESETS
from macs.script import importing, run


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = add_weight_options(parser)
    add("--M", type=integer(1), help="number of sources that the weights must have; it is read from them")
    add("--compile", action="store_true", help="compile the UNet's blocks first: a minute, for many clips")

    add = parser.add_argument_group("recordings").add_argument
    names = "recordings; a name that begins with - needs ./ before it"
    add("--audio", nargs="+", default=[], metavar="FILE_OR_FOLDER", help=names)
    add("--recursive", action="store_true", help="take the recordings in the folders below, too")
    add("--data_dir", default="", help="instead of --audio: holds <dataset_name>/<data_set>/audio")
    add("--data_set", default="test", help="train or test, under --data_dir")
    add("--clip_start", type=number(0), help="where to cut longer recordings, in seconds; default: the loudest 8 s")

    quiet = "raise clips with a peak below -20 dB to a usual level before they are separated, and so the sources "
    quiet += "written; default: as the weights say; the embedded model knows no quiet clips"
    add("--raise_quiet", action=argparse.BooleanOptionalAction, help=quiet)

    add = add_picture_options(parser)
    add("--cfg", action=argparse.BooleanOptionalAction, default=True, help="classifier-free guidance")
    add("--top_sources", type=integer(1), help="attend to the k most significant sources only")
    add("--source_weights", type=number(0), nargs="+", metavar="WEIGHT", help="one for each source; 0 silences it")
    boxes = "where a source may draw: its number from 1 and a box in shares of the picture, as 2:0,0,0.5,1 (left half)"
    add("--source_masks", type=source_box, nargs="+", metavar="SOURCE:LEFT,TOP,RIGHT,BOTTOM", help=boxes)
    add("--num_images", type=integer(1), default=1, help="per clip; the further ones are <clip name>_1.png, ...")
    add("--seed", type=integer(0), default=0, help="an image depends on the seed and its clip's name alone")
    frames = "draw --frames pictures on the way from one clip's sources to another's"
    add("--interpolate", nargs=2, metavar=("FROM", "TO"), help=frames)
    add("--frames", type=integer(2), default=9, help="of --interpolate, both ends included")

    editing.add_options(parser)

    add = parser.add_argument_group("outputs").add_argument
    add("--output_dir", default="output", help="where the images go")
    add("--batch_size", type=integer(1), default=4, help="clips at a time")
    add("--save_sources", action="store_true", help="write the M signals as wav and a picture of what was heard")
    maps = "write maps/<clip name>.png: which source drew what, by the attention's shares or by leaving each source out"
    add("--save_maps", nargs="?", const="attention", choices=["attention", "influence"], help=maps)
    labels = "names for the sources in the maps: a text file, one a line; default: the model's own, or AudioSet's 527"
    add("--labels", help=labels)
    report = "write report.html, one file with this run's clips, pictures, signals and maps, to send by mail"
    add("--report", action="store_true", help=report)
    only = "write sources/<clip name>_<rank>.wav and no pictures, for other models to read"
    add("--separate_only", action="store_true", help=only)
    add("--overwrite", action="store_true", help="make outputs again that exist")
    add_public_options(parser, {
        "--input_length": (("8",), "the length is the separator's; --clip_start cuts a longer recording"),
        "--sr": (("16000",), "the separator hears 16 kHz; recordings of any rate are resampled"),
        "--training": (("false",), "--data_set train draws the training part of a set under --data_dir"),
        "--dataloader_num_workers": ([str(n) for n in range(129)], "recordings are read one by one"),
    })  # fmt: skip
    args = parser.parse_args(arguments)
    if args.preset:  # its values are defaults, which options that are given override
        preset = PRESETS[args.preset]
        parser.set_defaults(steps=preset.steps, guidance_scale=preset.guidance_scale)
        args = parser.parse_args(arguments)
    if not (args.audio or args.data_dir or args.interpolate):
        parser.error("nothing to do: give --audio FILE_OR_FOLDER, --data_dir or --interpolate FROM TO")
    args.source_masks = dict(args.source_masks) if args.source_masks else None
    try:
        args.edits = editing.Edits(
            **{each.name: getattr(args, each.name) for each in dataclasses.fields(editing.Edits)}
        )
        args.edits.check_use(args.steps, from_noise=bool(args.interpolate))
    except ValueError as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    parse_args()  # --help and mistakes end here: what is imported below takes seconds

with importing():
    import torch
    from accelerate import Accelerator
    from accelerate.utils import gather_object
    from tqdm import tqdm

    from macs.devices import check_device, memory_advice, out_of_memory, speed_up
    from macs.files import check_output_dir
    from macs.noise import noise_seed
    from macs.outputs import Outputs
    from macs.recordings import find_clips


def clips_asked_for(args, outputs):
    """The recordings to draw, and the pictures that belong to them: ({name: path}, {name: pictures}, [problems])."""
    paths, missing = args.audio, []
    if args.data_dir:
        folder = Path(args.data_dir) / args.dataset_name / args.data_set / "audio"
        paths = [folder]
        if not folder.is_dir():
            known = sorted(str(f.parent.relative_to(args.data_dir)) for f in Path(args.data_dir).glob("*/*/audio"))
            missing = [f"{folder}: no such folder; {args.data_dir} holds the sets: {', '.join(known) or 'none'}"]
            paths = []
    clips, unreadable = find_clips(paths, args.recursive)
    clips, overlaps = outputs.share_none(clips)
    pairs, unpaired = editing.pair_pictures(args.edits, clips)
    clips = {name: path for name, path in clips.items() if name in pairs}
    return clips, pairs, missing + unreadable + overlaps + unpaired


def open_pipeline(args, device):
    with importing():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from macs.loading import load_pipeline

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.mixed_precision]
    pipe = load_pipeline(args.sd_path, args.pt_path, args.dataset_name, args.M, dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    if args.raise_quiet is not None:
        pipe.separator.register_to_config(raise_quiet=args.raise_quiet)
    return pipe


def memory_needed(args, device):
    """What to change after an error for want of memory."""
    advice = memory_advice(
        device,
        {
            f"--batch_size 1 (now {args.batch_size})": args.batch_size > 1,
            f"--num_images 1 (now {args.num_images})": args.num_images > 1,
            "--mixed_precision fp16": args.mixed_precision == "no" and device.type != "cpu",
            "a smaller --size": True,
        },
    )
    return f"{advice}. Pictures that are written stay; the same command goes on from there"


def read_clips(args, clips, names, num_samples, problems):
    """{name: waveform (T,)} of those that can be read; a message about each of the others goes to problems."""
    from macs.audio import SILENCE, AudioError, load_clip

    waveforms = {}
    for name in names:
        try:
            waveforms[name] = load_clip(clips[name], args.clip_start, num_samples)
        except (AudioError, OSError) as error:
            problems.append(str(error))
            continue
        if waveforms[name].abs().max() < SILENCE:
            warnings.warn(f"{clips[name]}: silence; the image shows no sound", stacklevel=1)
    return waveforms


def drawer(args, pipe):
    """The function embeddings (B, M, D), generators -> (images, source maps) that the settings ask for.

    pairs: the clips' pictures, see `macs.editing.pair_pictures`. The maps are None without --save_maps and --report.
    The prompt is encoded once, for all clips.
    """
    height, width = args.size or (None, None)
    guidance_scale = args.guidance_scale if args.cfg else 1.0
    texts = pipe.encode_texts(args.prompt)
    if guidance_scale > 1:
        texts |= {f"negative_{name}": value for name, value in pipe.encode_texts(args.negative_prompt).items()}
    settings = (
        texts
        | {
            "audio_scale": args.audio_scale,
            "top_sources": args.top_sources,
            "source_weights": args.source_weights,
            "source_masks": args.source_masks,
            "num_inference_steps": args.steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
        }
        | editing.call_settings(args.edits, pipe, args.size)
    )

    def draw(source_embeds, generators, num_images=1, pairs=()):
        pictures = editing.read_pictures(pipe, pairs, (settings["height"], settings["width"]))
        settings.update(source_embeds=source_embeds, generator=generators, num_images_per_prompt=num_images, **pictures)
        if args.save_maps == "influence":
            drawn = pipe.influence(**settings)
            images, maps = drawn.images, drawn.maps
        else:
            drawn = pipe(**settings, output_maps=bool(args.save_maps or args.report))
            images, maps = drawn.images, drawn.source_maps
        return editing.paste(pipe, images, pictures, num_images) if args.mask else images, maps

    return draw


def source_names(args, pipe, source_embeds):
    """The most probable name of each source (B, M) with its probability; None, and a warning, if CLAP cannot read."""
    from macs.attribution import clap_tokenizer, label_probabilities

    try:
        clap_tokenizer(pipe)
    except ValueError as error:
        warnings.warn(str(error), stacklevel=1)
        return None
    clips = label_probabilities(pipe, source_embeds, args.labels)
    return [[next(iter(source.items())) for source in clip] for clip in clips]


def draw_clips(args, pipe, clips, pairs, todo, outputs, problems, bar, report=None):
    """Recordings -> files, a batch of clips at a time. Returns the number of clips that were done.

    report: the function that adds a clip to the report.
    """
    draw, done = drawer(args, pipe), 0
    for start in range(0, len(todo), args.batch_size):
        batch = todo[start : start + args.batch_size]
        waveforms = read_clips(args, clips, batch, pipe.separator.config.num_samples, problems)
        bar.update(len(batch) - len(waveforms))
        if not waveforms:
            continue

        # Waveforms (B, T) -> sources (B, M, T) -> embeddings (B, M, D) -> images
        mixtures = torch.stack(list(waveforms.values())).to(pipe._execution_device)
        mixtures = pipe.separator.level(mixtures)
        sources, images, maps, names = pipe.separate(mixtures), [], None, None
        if not args.separate_only:
            source_embeds = pipe.encode_sources(sources)
            seeds = [noise_seed(args.seed, name, i) for name in waveforms for i in range(args.num_images)]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            images, maps = draw(source_embeds, generators, args.num_images, [pairs[name] for name in waveforms])
            names = source_names(args, pipe, source_embeds) if args.save_maps or args.report else None

        for i, name in enumerate(waveforms):
            try:
                clip_images = images[i * args.num_images : (i + 1) * args.num_images]
                clip_maps = maps[i * args.num_images] if maps is not None else None
                heard_and_drawn = (mixtures[i], sources[i], clip_images, clip_maps, names and names[i])
                outputs.write(name, *heard_and_drawn)
                if report:
                    report(name, *heard_and_drawn)
                done += 1
            except OSError as error:
                problems.append(f"{clips[name]}: its output could not be written ({error})")
            bar.update()
    return done


def interpolate(args, pipe):
    """<from>-<to>.png: pictures on the way between two clips' embeddings, on the sphere, from the same noise."""
    from diffusers.utils import make_image_grid

    from macs.files import write_beside
    from macs.timeline import slerp

    start, end = pipe.encode_audio(pipe.prepare_audio(args.interpolate))  # (M, D) each, unit norm
    way = torch.linspace(0, 1, args.frames, device=start.device)[:, None, None]
    draw, images, seed = drawer(args, pipe), [], noise_seed(args.seed, "interpolation", 0)
    for part in slerp(start, end, way).split(args.batch_size):  # (frames, M, D)
        images += draw(part, [torch.Generator().manual_seed(seed) for _ in part])[0]
    name = "-".join(Path(path).stem for path in args.interpolate)
    path = Path(args.output_dir) / f"{name}.png"
    with write_beside(path) as partial:
        make_image_grid(images, 1, len(images)).save(partial)
    return path


def report_of_run(args, process_index):
    """A `with` block around draw_clips: its `report` with --report, else None. Every process writes one of its own."""
    if not args.report:
        return contextlib.nullcontext()
    from macs.page.report import writing_report

    name = f"report_{process_index}.html" if process_index else "report.html"
    return writing_report(Path(args.output_dir) / name, shlex.join(["python", *sys.argv]))


def main():
    args = parse_args()
    # without a GPU several processes find each other only when told so
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    try:
        check_device(accelerator.device, args.mixed_precision, args.compile)
        check_output_dir(args.output_dir)
    except ValueError as error:
        sys.exit(f"inference.py: {error}")
    outputs = Outputs(Path(args.output_dir), args.num_images, args.separate_only, args.save_sources, args.save_maps)
    clips, pairs, problems = clips_asked_for(args, outputs)
    todo = [name for name in clips if args.overwrite or not all(path.exists() for path in outputs.paths(name))]
    kept, done = len(clips) - len(todo), 0

    try:
        if todo or args.interpolate:
            with importing():
                from macs.loading import check_source_settings
            of_sources = (args.top_sources, args.source_weights, args.source_masks)
            check_source_settings(args.sd_path, args.pt_path, *of_sources)
            pipe = editing.equip(open_pipeline(args, accelerator.device), args.edits)
            recorded = args.report or args.save_maps == "attention"
            speed_up(pipe, args.batch_size * args.num_images, args.size, args.compile, fullgraph=not recorded)
        if args.interpolate and accelerator.is_main_process:
            print(f"written: {interpolate(args, pipe)}")
        if todo:
            with accelerator.split_between_processes(todo) as names:
                with tqdm(total=len(names), unit="clip", disable=not accelerator.is_main_process) as bar:
                    with report_of_run(args, accelerator.process_index) as report:
                        done = draw_clips(args, pipe, clips, pairs, names, outputs, problems, bar, report)
    except ValueError as error:  # weights, recordings or settings that do not fit; the message says which
        sys.exit(f"inference.py: {error}")
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        sys.exit(f"inference.py: {memory_needed(args, accelerator.device)}")

    # Summary
    if accelerator.num_processes > 1:
        done = sum(gather_object([done]))
        problems = list(dict.fromkeys(gather_object(problems)))
    if accelerator.is_main_process:
        for problem in problems:
            print(problem, file=sys.stderr)
        made = f"sources of {done} clips" if args.separate_only else f"{done * args.num_images} images"
        made = made if done * args.num_images != 1 else made.removesuffix("s")
        print(
            f"{made} written to {args.output_dir}/, {kept} clip{'s' * (kept != 1)} had theirs already, "
            f"{len(problems)} problem{'s' * (len(problems) != 1)}"
        )
    accelerator.end_training()  # a process that ends before the others, still connected, aborts now and then
    sys.exit(1 if problems and not (done or kept or args.interpolate) else 0)


if __name__ == "__main__":
    run(main)
