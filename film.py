"""A film of a recording of any length: python film.py --audio long.wav --fps 8 (see film.sh).

OUTPUT_DIR/<recording>.mp4 gets a picture for every frame, from what is heard at its time, and the recording as sound
track. Frames are kept one by one in OUTPUT_DIR/frames, so that a film that was interrupted goes on. Try --fps 1 first.
"""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from macs.options import number
from macs.script import run
from storyboard import add_options, check, hear, picture_settings


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_options(parser)
    add = parser.add_argument_group("film").add_argument
    add("--fps", type=number(0.1, 60), default=8, help="frames per second")
    add(
        "--wander",
        type=number(0),
        default=0.0,
        metavar="SECONDS",
        help="the noise turns into another in these; 0: held",
    )
    motion = "AnimateDiff's motion modules for Stable Diffusion 1.x (folder or hub id): frames are drawn together"
    add("--motion_adapter", default="", metavar="PATH_OR_ID", help=motion)
    return parser.parse_args(arguments)


def open_motion_adapter(name, pipe):
    """A diffusers MotionAdapter, or None without a name. ValueError where there is none."""
    if not name:
        return None
    from diffusers import MotionAdapter

    try:
        adapter = MotionAdapter.from_pretrained(name, torch_dtype=pipe.unet.dtype)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--motion_adapter {name}: expected a motion adapter for Stable Diffusion 1.x, a folder or hub id such as "
            f"guoyww/animatediff-motion-adapter-v1-5-3 ({str(error).splitlines()[0]})"
        ) from error
    return adapter.to(pipe.unet.device)


def draw(args, pipe, timeline, folder):
    """Draws the frames that are not in the folder yet; returns the paths of all, in order."""
    from macs.files import write_beside
    from macs.film import choose_noise, film_frames, frame_times

    motion_adapter = open_motion_adapter(args.motion_adapter, pipe)
    times = frame_times(timeline.seconds, args.fps)
    paths = [folder / f"{i:06d}.png" for i in range(len(times))]
    todo = [i for i, path in enumerate(paths) if args.overwrite or not path.exists()]
    if motion_adapter is not None:  # frames that were drawn together are drawn together again
        together = motion_adapter.config.motion_max_seq_length
        missing = {i // together for i in todo}
        todo = [i for i in range(len(paths)) if i // together in missing]
    if not todo:
        return paths
    settings = {"seed": args.seed, "wander": args.wander, "batch_size": args.batch_size} | picture_settings(args)
    if args.candidates > 1 and not args.wander:
        chosen = folder / "noise.json"  # once: frames that are drawn later get the same
        if not chosen.is_file():
            print("choosing the noise ...")
            number = choose_noise(pipe, timeline, times, candidates=args.candidates, **settings)
            with write_beside(chosen) as partial:
                partial.write_text(json.dumps({"number": number}))
        settings["number"] = json.loads(chosen.read_text())["number"]
    frames = film_frames(pipe, timeline, times[todo], motion_adapter=motion_adapter, **settings)
    with tqdm(total=len(paths), initial=len(paths) - len(todo), unit="frame") as bar:
        for i, frame in zip(todo, frames, strict=True):
            with write_beside(paths[i]) as partial:
                frame.save(partial)
            bar.update()
    return paths


def main():
    args = parse_args()
    check(args)
    from macs.files import fingerprint
    from macs.film import write_film

    path = Path(args.output_dir) / f"{Path(args.audio).stem}.mp4"
    if path.exists() and not args.overwrite:
        print(f"{path} is there already; --overwrite makes it again")
        return
    names = ("sd_path", "pt_path", "dataset_name", "mixed_precision", "hop", "seed", "fps", "wander")
    names += ("candidates", "motion_adapter")
    settings = {name: getattr(args, name) for name in names} | picture_settings(args)
    folder = Path(args.output_dir) / "frames" / f"{path.stem[:80]}-{fingerprint(settings, [args.audio])}"
    try:
        pipe, timeline = hear(args)
        paths = draw(args, pipe, timeline, folder)
        print("writing the film ...")
        write_film(path, paths, args.fps, args.audio)
    except ValueError as error:  # weights, recordings or settings that do not fit
        sys.exit(f"film.py: {error}")
    except OSError as error:  # a full disk, for instance
        kept = len(list(folder.glob("[0-9]*.png"))) if folder.is_dir() else 0
        sys.exit(f"film.py: {error}; {kept} frames are kept in {folder}, the same command goes on from there")
    print(f"written: {path} ({len(paths)} frames, {timeline.seconds:.1f} s)")


if __name__ == "__main__":
    run(main)
