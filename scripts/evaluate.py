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
from pathlib import Path

import numpy as np
import torch

from macs.audio import AUDIO_SUFFIXES
from macs.evaluation.embedding import encode_files
from macs.evaluation.encoders import (
    ClipImageEncoder,
    InceptionEncoder,
    SmallAudioEncoder,
    SmallImageEncoder,
    Wav2ClipEncoder,
    load_encoder,
)
from macs.evaluation.measures import (
    MEASURES,
    PAPER,
    Embedded,
    Estimate,
    evaluate,
    evaluate_folds,
    find_files,
    match_ids,
)
from macs.evaluation.table import figure, listed, table

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
    add("--resamples", type=int, default=1000, help="bootstrap resamples behind the 95%% intervals; 0: none")
    add("--folds", type=int, default=0, help="mean and deviation over so many disjoint parts (the paper: 5) instead")
    add("--seed", type=int, default=0, help="of the resamples, the folds and KID's subsets")
    add("--batch_size", type=int, default=64, help="files per batch")
    add("--num_workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that read files")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda: all visible GPUs; cuda:1; cpu")
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


def main(argv=None):
    args = parse_args(argv)
    measures = [m for m in MEASURES if m in args.measures]

    # Which files there are
    images = {name: find_files(folder, IMAGE_SUFFIXES) for name, folder in args.models.items()}
    frames = clips = {}
    if set(measures) - {"ais", "ais_z"}:
        frames = find_files(args.image_dir, IMAGE_SUFFIXES, frames=True)
    if set(measures) & {"ais", "ais_z"}:
        clips = find_files(args.audio_dir, AUDIO_SUFFIXES)

    # Every file through its encoders, once
    every_gpu = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    devices = every_gpu if args.device == "cuda" else [args.device]
    settings = (args.cache_dir or None, args.batch_size, args.num_workers, devices)
    image_encoders = {}
    if set(measures) & {"fid", "kid"}:
        image_encoders["inception"] = (args.inception, InceptionEncoder)
    if set(measures) - {"fid", "kid"}:
        image_encoders["clip"] = (args.clip, ClipImageEncoder)
    if args.stand_ins:
        image_encoders = dict.fromkeys(image_encoders, SmallImageEncoder())
        audio_encoders = {"audio": fit_stand_in(args, settings)} if clips else {}
    else:
        image_encoders = {name: load_encoder(*source) for name, source in image_encoders.items()}
        audio_encoders = {"audio": load_encoder(args.wav2clip, Wav2ClipEncoder)} if clips else {}

    wanted = set().union(*images.values())  # the audio of clips without any image is in no measure
    image_paths = [p for found in (*images.values(), frames) for paths in found.values() for p in paths]
    features, errors = encode_files(image_paths, image_encoders, *settings)
    rows = {path: k for k, path in enumerate(image_paths)}
    if clips:
        audio_paths = [paths[0] for i, paths in clips.items() if i in wanted]
        audio_features, audio_errors = encode_files(audio_paths, audio_encoders, *settings)
        audio_rows, errors = {path: k for k, path in enumerate(audio_paths)}, errors | audio_errors

    def embedded(found, features, rows):
        kept = [(i, rows[p]) for i, paths in found.items() for p in paths if p in rows and p not in errors]
        return Embedded([i for i, _ in kept], {name: x[[row for _, row in kept]] for name, x in features.items()})

    generated = {name: embedded(found, features, rows) for name, found in images.items()}
    truth = embedded(frames, features, rows) if frames else None
    heard = embedded(clips, audio_features, audio_rows) if clips else None

    # The measures
    ids = sorted(wanted | set(frames) | (set(clips) & wanted))
    results, folds = {}, {}
    for name, model in generated.items():
        if not model.ids:
            raise SystemExit(f"{args.models[name]}: none of its images could be read:\n{listed(errors, 'reasons')}")
        if args.folds:
            parts = evaluate_folds(model, truth, heard, measures, ids, args.folds, args.seed, devices[0])
            folds[name] = {m: [part[m].value for part in parts] for m in measures}
            results[name] = {
                m: Estimate(float(np.mean(v)), sum(part[m].n for part in parts), np.array(v))
                for m, v in folds[name].items()
            }
        else:
            results[name] = evaluate(model, truth, heard, measures, ids, args.resamples, args.seed, devices[0])

    # What has no partner
    notes, first = [], next(iter(images))
    for name in args.models:
        what = f"{name}: clips of {first} without an image, so that their difference compares unlike sets"
        notes.append(_unmatched(what, match_ids(images[first], images[name])))
        for found, what in ((clips, "clip"), (frames, "frame")):
            if found:
                notes.append(_unmatched(f"{name}: images without a {what}", match_ids(images[name], found)))
                notes.append(_unmatched(f"{name}: {what}s' ids without an image", match_ids(found, images[name])))
    notes += [{"what": "files that could not be read, left out", "names": {str(p): r for p, r in errors.items()}}]
    notes = [note for note in notes if note["names"]]

    # Results, as text, JSON and figure
    differences = {} if args.folds else _differences(results)
    paper = PAPER.get(args.dataset_name, {})
    text = table(args, measures, results, differences, paper, notes)
    print(text)
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "table.txt", lambda path: path.write_text(text + "\n", encoding="utf-8"))
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
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    _write(output / "results.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    _write(output / "table.png", lambda path: figure(path, args, measures, results, paper))
    print(f"\nWritten: {output / 'results.json'}, {output / 'table.txt'}, {output / 'table.png'}")


def fit_stand_in(args, settings):
    """The small audio encoder, fitted on the split `train` beside the one evaluated."""
    root = Path(args.data_dir, args.dataset_name, "train")
    clips, frames = find_files(root / "audio", AUDIO_SUFFIXES), find_files(root / "image", IMAGE_SUFFIXES, frames=True)
    pairs = [(clips[i][0], path) for i in sorted(set(clips) & set(frames)) for path in frames[i]]
    encoder = SmallAudioEncoder()
    statistics, _ = encode_files([clip for clip, _ in pairs], {"audio": encoder}, *settings)
    features, _ = encode_files([frame for _, frame in pairs], {"clip": SmallImageEncoder()}, *settings)
    x, y = statistics["audio"], features["clip"]
    readable = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    return encoder.fit(x[readable], y[readable])


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


def _unmatched(what, missing):
    return {"what": what, "names": {i: twin and f"differs only in case from {twin}" for i, twin in missing.items()}}


def _finite(value):
    return float(value) if value is not None and np.isfinite(value) else None


def _entry(estimate, folds=None):
    entry = {"value": _finite(estimate.value), "n": estimate.n}
    if folds is not None:
        return entry | {"deviation": _finite(np.std(folds, ddof=1)), "folds": [_finite(v) for v in folds]}
    return entry | {"interval_95": estimate.interval}


def _write(path, write):
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    write(partial)
    os.replace(partial, path)


if __name__ == "__main__":
    main()
