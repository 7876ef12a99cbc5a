"""A storyboard of a recording of any length: python storyboard.py --audio long.wav --panels 8 (see storyboard.sh).

OUTPUT_DIR gets <recording>.png, .pdf (the sheet: waveform, spectrogram, the named sources as bars, pictures at their
places) and .html with the sound, where a click jumps. What was heard is kept in OUTPUT_DIR/heard.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from macs.options import add_picture_options, add_weight_options, integer, number
from macs.script import importing, run

HOPS = [0.5, 1.0, 2.0, 4.0]  # s; macs.timeline.HOPS, which would load torch for a --help


def add_options(parser):
    """The options that storyboard and film have in common."""
    parser.set_defaults(M=None, raise_quiet=None)  # as of the weights
    add_weight_options(parser)
    add = parser.add_argument_group("recording").add_argument
    add("--audio", required=True, metavar="FILE", help="a recording of any length")
    add("--hop", type=float, choices=HOPS, default=2.0, help="seconds from one window of 8 s to the next")

    add = add_picture_options(parser)
    add("--seed", type=integer(0), default=0, help="of the noise, which is the same in all pictures")
    candidates = "noises that are tried first; the one in whose pictures the sound is seen best is held"
    add("--candidates", type=integer(1), default=4, help=candidates)

    add = parser.add_argument_group("outputs").add_argument
    add("--output_dir", default="output", help="where everything goes")
    add("--batch_size", type=integer(1), default=4, help="windows and pictures at a time")
    add("--overwrite", action="store_true", help="make outputs again that exist")


def check(args):
    """Ends the script with one line where precision, recording or folder will not do; before anything is loaded."""
    with importing():
        from macs.audio import read_audio
        from macs.devices import best_device, check_device
        from macs.files import check_output_dir

    try:
        check_device(best_device(), args.mixed_precision)
        read_audio(args.audio, 0, 1)
        check_output_dir(args.output_dir)
    except ValueError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def picture_settings(args):
    """The arguments of a call of the pipeline."""
    height, width = args.size or (None, None)
    return {
        "prompt": args.prompt, "negative_prompt": args.negative_prompt, "num_inference_steps": args.steps,
        "guidance_scale": args.guidance_scale, "audio_scale": args.audio_scale, "height": height, "width": width,
    }  # fmt: skip


def hear(args):
    """(the pipeline, the recording's Timeline)."""
    from inference import open_pipeline
    from macs.devices import best_device

    pipe = open_pipeline(args, best_device())
    print(f"listening to {args.audio} ...")
    timeline = pipe.listen(
        args.audio, args.hop, cache_dir=Path(args.output_dir) / "heard", batch_size=args.batch_size, progress=True
    )
    return pipe, timeline


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_options(parser)
    add = parser.add_argument_group("panels").add_argument
    add("--panels", type=integer(1, 40), default=8, help="pictures; where what is heard changes most")
    add("--every", type=number(1), metavar="SECONDS", help="instead: a picture every so often")
    labels = "names for the sources: a text file with one in a line; the soundscapes' names if not given"
    add("--labels", help=labels + " and the weights know them, else numbers")
    return parser.parse_args(arguments)


def main():
    args = parse_args()
    check(args)
    stem = Path(args.audio).stem
    paths = {kind: Path(args.output_dir) / f"{stem}.{kind}" for kind in ("png", "pdf", "html")}
    if not args.overwrite and all(path.exists() for path in paths.values()):
        print(f"{paths['html']} is there already; --overwrite makes it again")
        return
    with importing():
        import torch

        from macs.attribution import own_labels, read_names
        from macs.files import write_beside
        from macs.film import choose_noise, film_frames, write_film
        from macs.storyboard import evenly, page, rows, scenes, sheet

    try:
        labels = args.labels or own_labels(args.sd_path)
        labels = labels and read_names(labels)
        pipe, timeline = hear(args)
        parts = evenly(timeline, args.every) if args.every else scenes(timeline, args.panels)
        if len(parts) > 40:
            sys.exit(f"storyboard.py: --every {args.every:g} makes {len(parts)} pictures of {timeline.seconds:.0f} s; "
                     f"a sheet holds 40, so give at least {timeline.seconds / 40:.0f}")  # fmt: skip
        bars = rows(timeline, labels if pipe.clap_tokenizer is not None else None)
        moments = torch.tensor([moment for _, _, moment in parts], dtype=torch.float64)
        settings = {"seed": args.seed, "batch_size": args.batch_size} | picture_settings(args)
        if args.candidates > 1:
            print("choosing the noise ...")
            settings["number"] = choose_noise(pipe, timeline, moments, candidates=args.candidates, **settings)
        drawn = film_frames(pipe, timeline, moments, **settings)
        pictures = list(tqdm(drawn, total=len(parts), unit="picture"))
        figure = sheet(timeline, bars, parts, pictures, stem)
        with tempfile.TemporaryDirectory() as folder:
            write_film(Path(folder) / "sound.mp4", [], 1, args.audio)
            text = page(timeline, bars, parts, pictures, (Path(folder) / "sound.mp4").read_bytes(), stem)
        for kind in ("png", "pdf"):
            with write_beside(paths[kind]) as partial:
                figure.savefig(partial, dpi=150)
        with write_beside(paths["html"]) as partial:
            partial.write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:  # weights, recordings or settings that do not fit; a full disk
        sys.exit(f"storyboard.py: {error}")
    print("written: " + ", ".join(str(path) for path in paths.values()))


if __name__ == "__main__":
    run(main)
