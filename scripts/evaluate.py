"""The paper's seven measures of generated images, beside the paper's rows: FID, CLIP-FID, KID, AIS, AIS-z, IIS, IIS-z.

    python scripts/evaluate.py --pred outputs/llp --data_dir data --dataset_name LLP
    python scripts/evaluate.py --pred mine=outputs/a other=outputs/b --data_dir data --dataset_name Landscape --folds 5

Generated images are FOLDER/<clip id>.png; clips and ground truth DATA_DIR/DATASET_NAME/DATA_SET/{audio/<id>.wav,
image/<id>_frame_<n>.jpg}. Ids are matched exactly; what has no partner is counted and named. Every file is encoded
once and its features kept in --cache_dir by its content, so that a second evaluation encodes nothing.

FID, CLIP-FID and KID compare all generated images with all frames; AIS and IIS average over pairs. The 95% intervals
resample clips with replacement, each with its generated image, its frames and its audio together, the same resamples
for every model, so that differences of models are paired. FID's resamples are first-order (infinitesimal jackknife):
its intervals are too wide, up to twice, for models that are hardly distinguishable from the truth. Intervals are
the spread at this number of clips: FID also falls as images are added, so compare it at equal numbers.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

from macs.evaluation.paper import MEASURES, OWN_SPLITS, PAPER
from macs.options import integer
from macs.script import importing, run


def parse_args(argv=None):
    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Formatter)
    add = parser.add_argument
    add("--pred", nargs="+", action="extend", required=True, metavar="[NAME=]FOLDER",
        help="folders of generated images, <clip id>.png")  # fmt: skip
    add("--data_dir", default="data", help="folder of the datasets")
    add("--dataset_name", default="LLP", help="LLP, AudioSet, Landscape or your own; chooses the paper's rows")
    add("--data_set", default="test", help="split: test or train")
    add("--audio_dir", help="the clips, instead of DATA_DIR/DATASET_NAME/DATA_SET/audio")
    add("--image_dir", help="the ground-truth frames, instead of DATA_DIR/DATASET_NAME/DATA_SET/image")
    add("--measures", nargs="+", choices=MEASURES, default=list(MEASURES), metavar="MEASURE", help=" ".join(MEASURES))
    add("--clip", help="CLIP of the CLIP-FID, AIS and IIS: folder or hub id (openai/clip-vit-base-patch32)")
    add("--wav2clip", help="Wav2CLIP.pt of the AIS (its release is downloaded)")
    add("--inception", help="folder with inception-2015-12-05.pt of the FID and KID (clean-fid's, downloaded)")
    add("--stand_ins", action="store_true", help="small encoders instead of these three, without any download; that "
        "of audio is fitted on the split train. For trials: their numbers compare with each other only")  # fmt: skip
    add("--resamples", type=integer(0), default=1000, help="bootstrap resamples behind the 95%% intervals; 0: none")
    add("--folds", type=integer(0), default=0, help="mean and deviation over so many disjoint parts instead")
    add("--seed", type=integer(0), default=0, help="of the resamples, the folds and KID's subsets")
    add("--batch_size", type=integer(1), default=64, help="files per batch")
    add("--num_workers", type=integer(0), default=min(8, os.cpu_count() or 1), help="processes that read files")
    add("--device", help="cuda: all visible GPUs, and the default where there is one; cuda:1; cpu")
    add("--cache_dir", default="cache/features", help="features by content; '' keeps none")
    add("--output_dir", default="output/evaluation", help="gets results.json, table.txt, table.png")
    args = parser.parse_args(argv)
    if args.folds and args.folds < 2:
        parser.error(f"--folds {args.folds}: expected 2 or more, or 0 for none")
    root = Path(args.data_dir, args.dataset_name, args.data_set)
    args.audio_dir, args.image_dir = args.audio_dir or root / "audio", args.image_dir or root / "image"
    args.models = {}
    for item in args.pred:
        name, equals, folder = item.partition("=")
        if not equals or Path(item).exists():
            name, folder = Path(item).resolve().name, item
        if name in args.models:
            parser.error(f"--pred: two folders are called {name}; write NAME=FOLDER")
        args.models[name] = folder
    return args


if __name__ == "__main__":
    parse_args()  # --help and mistakes end here: what is imported below takes seconds

with importing():
    import numpy as np
    import torch

    from macs.data.pairs import IMAGE_SUFFIXES
    from macs.evaluation.embedding import encode_files
    from macs.evaluation.encoders import (
        ClipImageEncoder,
        InceptionEncoder,
        SmallAudioEncoder,
        SmallImageEncoder,
        Wav2ClipEncoder,
        load_encoder,
    )
    from macs.evaluation.measures import Embedded, Estimate, evaluate, evaluate_folds, find_files, match_ids
    from macs.evaluation.table import figure, listed, table
    from macs.files import write_beside


def main(argv=None):
    args = parse_args(argv)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        compare(args)
    except (OSError, ValueError) as error:  # folders without files, ids that come twice, weights that are not there
        sys.exit(f"evaluate.py: {error}")


def compare(args):
    """Matches and encodes the files, computes the measures, prints and writes the results."""
    measures = [m for m in MEASURES if m in args.measures]

    # Which files there are
    images = {name: find_files(folder, IMAGE_SUFFIXES) for name, folder in args.models.items()}
    frames = clips = {}
    if set(measures) - {"ais", "ais_z"}:
        frames = find_files(args.image_dir, IMAGE_SUFFIXES, frames=True)
    if set(measures) & {"ais", "ais_z"}:
        clips = find_files(args.audio_dir)
    wanted = set().union(*images.values())  # the audio of clips without any image is in no measure

    # Every file through its encoders, once
    every_gpu = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    devices = every_gpu if args.device == "cuda" else [args.device]
    encode = partial(encode_files, cache_dir=args.cache_dir or None, batch_size=args.batch_size,
                     num_workers=args.num_workers, devices=devices)  # fmt: skip
    image_encoders, audio_encoders = open_encoders(args, measures, encode)
    (*generated, truth), errors = embed([*images.values(), frames], image_encoders, encode)
    (audio,), audio_errors = embed([{i: clips[i] for i in clips if i in wanted}], audio_encoders, encode)
    generated, errors = dict(zip(images, generated, strict=True)), errors | audio_errors

    # The measures
    ids = sorted(wanted | set(frames) | (set(clips) & wanted))
    results, folds = {}, {}
    for name, model in generated.items():
        if not model.ids:
            raise SystemExit(f"{args.models[name]}: none of its images could be read:\n{listed(errors, 'reasons')}")
        if args.folds:
            parts = evaluate_folds(model, truth, audio, measures, ids, args.folds, args.seed, devices[0])
            folds[name] = {m: [part[m].value for part in parts] for m in measures}
            results[name] = {
                m: Estimate(float(np.mean(v)), sum(part[m].n for part in parts), np.array(v))
                for m, v in folds[name].items()
            }
        else:
            results[name] = evaluate(model, truth, audio, measures, ids, args.resamples, args.seed, devices[0])

    # Results, as text, JSON and figure
    notes = left_out(images, frames, clips, errors)
    differences = {} if args.folds else _differences(results)
    paper = PAPER.get(args.dataset_name, {})
    own_split = args.dataset_name in OWN_SPLITS
    text = table(
        args.dataset_name, measures, results, differences, paper, notes, args.folds, args.resamples, args.stand_ins,
        own_split,
    )  # fmt: skip
    print(text)
    report = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "encoders": {name: e.identity for name, e in {**image_encoders, **audio_encoders}.items()},
        "models": {
            name: {m: _entry(e, folds.get(name, {}).get(m)) for m, e in estimates.items()}
            for name, estimates in results.items()
        },
        "differences": {name: {m: _entry(e) for m, e in d.items()} for name, d in differences.items()},
        "paper": paper,
        "left_out": notes,
    }
    output = Path(args.output_dir)
    with write_beside(output / "table.txt") as path:
        path.write_text(text + "\n", encoding="utf-8")
    with write_beside(output / "results.json") as path:
        path.write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    with write_beside(output / "table.png") as path:
        title = f"{args.dataset_name} ({args.data_set})"
        figure(title, measures, results, paper, args.folds, own_split).savefig(path, dpi=150)
    print(f"\nWritten: {output / 'results.json'}, {output / 'table.txt'}, {output / 'table.png'}")


def open_encoders(args, measures, encode):
    """({name: encoder of images}, {name: encoder of clips}) that the measures need."""
    sources = {}
    if set(measures) & {"fid", "kid"}:
        sources["inception"] = (args.inception, InceptionEncoder)
    if set(measures) - {"fid", "kid"}:
        sources["clip"] = (args.clip, ClipImageEncoder)
    needs_audio = bool(set(measures) & {"ais", "ais_z"})
    if args.stand_ins:
        audio = fit_stand_in(Path(args.data_dir, args.dataset_name, "train"), encode) if needs_audio else None
        return dict.fromkeys(sources, SmallImageEncoder()), {"audio": audio} if needs_audio else {}
    image_encoders = {name: open_encoder(name, *source) for name, source in sources.items()}
    return image_encoders, {"audio": open_encoder("wav2clip", args.wav2clip, Wav2ClipEncoder)} if needs_audio else {}


def open_encoder(option, spec, default):
    """The encoder that an option names. Raises ValueError, one line, for whatever keeps it from being opened."""
    try:
        return load_encoder(spec, default)
    except Exception as error:  # no network, a broken file, or what a module of the user's raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"--{option} {spec or 'was not given'}: the encoder cannot be opened: {reason}. Name its file or folder, "
            "or try without any download: --stand_ins"
        ) from error


def fit_stand_in(root, encode):
    """The small audio encoder, fitted on the clips and frames of the split in the folder root."""
    clips, frames = find_files(root / "audio"), find_files(root / "image", IMAGE_SUFFIXES, frames=True)
    pairs = [(clips[i][0], path) for i in sorted(set(clips) & set(frames)) for path in frames[i]]
    encoder = SmallAudioEncoder()
    statistics, _ = encode([clip for clip, _ in pairs], {"audio": encoder})
    features, _ = encode([frame for _, frame in pairs], {"clip": SmallImageEncoder()})
    x, y = statistics["audio"], features["clip"]
    readable = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    return encoder.fit(x[readable], y[readable])


def embed(sets, encoders, encode):
    """Encodes sets of files {id: [paths]} together. Returns [Embedded of each set], {path: why it was left out}."""
    paths = [path for found in sets for of_id in found.values() for path in of_id]
    features, errors = encode(paths, encoders)
    rows = {path: row for row, path in enumerate(paths)}

    def select(found):
        kept = [(i, rows[path]) for i, of_id in found.items() for path in of_id if path not in errors]
        return Embedded([i for i, _ in kept], {name: x[[row for _, row in kept]] for name, x in features.items()})

    return [select(found) for found in sets], errors


def left_out(images, frames, clips, errors):
    """What has no partner or could not be read: [{"what": in words, "names": {id or path: reason or None}}]."""

    def without(ids, others):
        twins = match_ids(ids, others)
        return {i: twin and f"differs only in case from {twin}" for i, twin in twins.items()}

    notes, first = {}, next(iter(images))
    for name, found in images.items():
        what = f"{name}: clips of {first} without an image, so that their difference compares unlike sets"
        notes[what] = without(images[first], found)
        for others, kind in ((clips, "clip"), (frames, "frame")):
            if others:
                notes[f"{name}: images without a {kind}"] = without(found, others)
                notes[f"{name}: {kind}s' ids without an image"] = without(others, found)
    notes["files that could not be read, left out"] = {str(path): reason for path, reason in errors.items()}
    return [{"what": what, "names": names} for what, names in notes.items() if names]


def _differences(results):
    """{"b - a": {measure: Estimate}}: every further model less the first, resample by resample."""
    (first, base), *others = results.items()
    return {
        f"{name} - {first}": {
            m: Estimate(e.value - base[m].value, min(e.n, base[m].n), e.resamples - base[m].resamples)
            for m, e in estimates.items()
        }
        for name, estimates in others
    }


def _finite(value):
    return float(value) if value is not None and np.isfinite(value) else None


def _entry(estimate, folds=None):
    entry = {"value": _finite(estimate.value), "n": estimate.n}
    if folds is not None:
        return entry | {"deviation": _finite(np.std(folds, ddof=1)), "folds": [_finite(v) for v in folds]}
    return entry | {"interval_95": estimate.interval and [_finite(end) for end in estimate.interval]}


if __name__ == "__main__":
    run(main)
