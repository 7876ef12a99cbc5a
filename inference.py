"""Images from recordings: python inference.py --audio clip.wav more/ --output_dir output (see inference.sh).

Every clip becomes <output_dir>/<clip name>.png. Outputs that exist are kept; a clip that cannot be read is reported and
the others go on. With several GPUs: accelerate launch inference.py ...
"""

import argparse
import hashlib
import os
import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--sd_path", default="asset/macs-tiny", help="a MACS pipeline or a Stable Diffusion 1.4 (folder or hub id)"
    )
    parser.add_argument(
        "--pt_path", default="", help="the released .pt files (folder or hub id), or an adapter trained by train.py"
    )
    parser.add_argument("--dataset_name", default="LLP", help="which released weights, and which set under --data_dir")
    parser.add_argument(
        "--audio",
        nargs="+",
        default=[],
        metavar="FILE_OR_FOLDER",
        help="recordings; a name that begins with - needs ./ before it",
    )
    parser.add_argument("--recursive", action="store_true", help="take the recordings in folders below, too")
    parser.add_argument(
        "--data_dir", default="", help="instead of --audio: the folder that holds <dataset_name>/<data_set>/audio"
    )
    parser.add_argument("--data_set", default="test", help="train or test, under --data_dir")
    parser.add_argument("--output_dir", default="output", help="where the images go")
    parser.add_argument("--M", type=int, default=6, help="number of separated signals; must be the weights'")
    parser.add_argument("--cfg", action=argparse.BooleanOptionalAction, default=True, help="classifier-free guidance")
    parser.add_argument("--prompt", default="", help="text beside the sound")
    parser.add_argument("--negative_prompt", default="", help="what the image shall not show")
    parser.add_argument("--guidance_scale", type=float, default=7.5, help="strength of the guidance")
    parser.add_argument(
        "--audio_scale", type=float, default=1.0, help="weight of the sound; 0 is Stable Diffusion alone"
    )
    parser.add_argument("--top_sources", type=int, default=None, help="attend to the k most significant signals only")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps (DPM-Solver++)")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=None,
        metavar="PIXELS",
        help="one side, or height and width; multiples of 8",
    )
    parser.add_argument(
        "--num_images", type=int, default=1, help="images per clip; the further ones are <clip name>_1.png, ..."
    )
    parser.add_argument(
        "--clip_start",
        type=float,
        default=None,
        help="where to cut longer recordings, in seconds; the loudest 8 s if not given",
    )
    parser.add_argument("--seed", type=int, default=0, help="an image depends on the seed and its clip's name alone")
    parser.add_argument("--batch_size", type=int, default=4, help="clips at a time")
    parser.add_argument(
        "--mixed_precision",
        choices=["no", "fp16", "bf16"],
        default="no",
        help="of the generator; the audio part stays in float32",
    )
    parser.add_argument(
        "--save_sources", action="store_true", help="write the M signals as wav and a picture of what was heard"
    )
    parser.add_argument("--overwrite", action="store_true", help="make images again that exist")
    return parser.parse_args()  # fmt: skip


def find_clips(args):
    """The recordings asked for: ({name: path}, [problems])."""
    from macs.audio import find_recordings

    paths, problems = [], []
    if not args.data_dir:
        paths = [Path(path) for path in args.audio]
    else:
        folder = Path(args.data_dir) / args.dataset_name / args.data_set / "audio"
        if folder.is_dir():
            paths.append(folder)
        else:
            known = sorted(str(f.parent.relative_to(args.data_dir)) for f in Path(args.data_dir).glob("*/*/audio"))
            problems.append(f"{folder}: no such folder; {args.data_dir} holds the sets: {', '.join(known) or 'none'}")
    clips = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files, unreadable = find_recordings(path, args.recursive)
            problems += unreadable
        elif not path.exists():
            problems.append(f"{path}: no such file or folder")
            continue
        for file in files:
            if clips.setdefault(file.stem, file) != file:
                problems.append(f"{file}: would overwrite the image of {clips[file.stem]}; rename one of them")
    return clips, problems


def image_generator(seed, name, number):
    """The noise of image `number` of a clip: the same in whatever batch, order or process it is made."""
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode("utf-8", "surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def output_paths(output_dir, name, num_images):
    return [output_dir / (f"{name}_{i}.png" if i else f"{name}.png") for i in range(num_images)]


def write(path, save):
    """Writes beside and renames, so that no half file is ever seen; `save` takes the path to write to."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    save(partial)
    os.replace(partial, path)


def write_sources(output_dir, name, mixture, sources, image):
    """sources/<name>_1.wav ... and sources/<name>.png: the mixture, its signals in rank order, and the image."""
    import soundfile

    from macs.audio import SAMPLE_RATE
    from macs.plots import sources_figure

    folder = output_dir / "sources"
    folder.mkdir(exist_ok=True)
    for rank, source in enumerate(sources.cpu().numpy(), 1):
        write(folder / f"{name}_{rank}.wav", lambda path, source=source: soundfile.write(path, source, SAMPLE_RATE))
    figure = sources_figure(mixture, sources, image)
    write(folder / f"{name}.png", lambda path: figure.savefig(path, dpi=120))


def main():
    args = parse_args()
    # without a GPU several processes find each other only when told so
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    if not args.audio and not args.data_dir:
        sys.exit("nothing to do: give --audio FILE_OR_FOLDER or --data_dir")
    if args.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        sys.exit("--mixed_precision fp16 needs a GPU; on a CPU use no or bf16")
    clips, problems = find_clips(args)

    # The output folder, and what is to be made
    output_dir = Path(args.output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / f".write_test_{accelerator.process_index}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        sys.exit(f"--output_dir {output_dir}: cannot be written ({error.strerror}); choose another folder")
    todo = [
        name
        for name in clips
        if args.overwrite or not all(p.exists() for p in output_paths(output_dir, name, args.num_images))
    ]
    kept = len(clips) - len(todo)
    written = 0

    if todo:
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from macs.audio import SILENCE, AudioError, load_clip
        from macs.loading import load_pipeline
        from macs.released import CheckpointError

        # Models
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.mixed_precision]
        try:
            pipe = load_pipeline(args.sd_path, args.pt_path, args.dataset_name, args.M, dtype).to(accelerator.device)
        except CheckpointError as error:
            sys.exit(str(error))
        pipe.set_progress_bar_config(disable=True)
        height, width = (args.size[0], args.size[-1]) if args.size else (None, None)
        num_samples = pipe.separator.config.num_samples

        # The prompt is encoded once, for all clips
        guidance_scale = args.guidance_scale if args.cfg else 1.0
        with torch.no_grad():
            prompt_embeds, negative_prompt_embeds = pipe.encode_prompt(
                args.prompt, accelerator.device, 1, args.cfg, args.negative_prompt
            )

        with accelerator.split_between_processes(todo) as names:
            bar = tqdm(total=len(names), unit="clip", disable=not accelerator.is_main_process)
            for start in range(0, len(names), args.batch_size):
                # Recordings -> waveforms (B, T)
                waveforms = {}
                for name in names[start : start + args.batch_size]:
                    try:
                        waveforms[name] = load_clip(clips[name], args.clip_start, num_samples)
                        if waveforms[name].abs().max() < SILENCE:
                            warnings.warn(f"{clips[name]}: silence; the image shows no sound", stacklevel=1)
                    except (AudioError, OSError) as error:
                        problems.append(str(error))
                        bar.update()
                if not waveforms:
                    continue

                # Waveforms -> sources (B, M, T) -> embeddings (B, M, D) -> images
                mixtures = torch.stack(list(waveforms.values())).to(accelerator.device)
                sources = pipe.separate(mixtures)
                images = pipe(
                    source_embeds=pipe.encode_sources(sources),
                    prompt_embeds=prompt_embeds,
                    negative_prompt_embeds=negative_prompt_embeds,
                    audio_scale=args.audio_scale,
                    top_sources=args.top_sources,
                    num_inference_steps=args.steps,
                    guidance_scale=guidance_scale,
                    num_images_per_prompt=args.num_images,
                    generator=[image_generator(args.seed, n, i) for n in waveforms for i in range(args.num_images)],
                    height=height,
                    width=width,
                ).images

                # Images -> files
                for i, name in enumerate(waveforms):
                    clip_images = images[i * args.num_images : (i + 1) * args.num_images]
                    try:
                        for path, image in zip(
                            output_paths(output_dir, name, args.num_images), clip_images, strict=True
                        ):
                            write(path, image.save)
                            written += 1
                        if args.save_sources:
                            write_sources(output_dir, name, mixtures[i], sources[i], clip_images[0])
                    except OSError as error:
                        problems.append(f"{clips[name]}: its image could not be written ({error})")
                    bar.update()
            bar.close()

    # Summary
    if accelerator.num_processes > 1:
        written = sum(gather_object([written]))
        problems = list(dict.fromkeys(gather_object(problems)))
    if accelerator.is_main_process:
        for problem in problems:
            print(problem, file=sys.stderr)
        print(
            f"{written} image{'s' * (written != 1)} written to {output_dir}/, "
            f"{kept} clip{'s' * (kept != 1)} had theirs already, {len(problems)} problem{'s' * (len(problems) != 1)}"
        )
    sys.exit(1 if problems and not written and not kept else 0)


if __name__ == "__main__":
    main()
