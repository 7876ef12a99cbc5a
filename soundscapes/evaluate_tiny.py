"""Measures the embedded model on held-out soundscapes, per number of sources: python soundscapes/evaluate_tiny.py

Separation: SI-SDR improvement over the mixture, of the best sums of signals and of single ones. Pictures: macro F1 of
the classes that the judge sees in them, and the Fréchet distance in the judge's features to the painted ones. MACS is
held against the same training without separation, its first sources alone, the true stems and the text prompt.
With --recordings the same is asked of real recordings, alone and two at once, of the folder's split test.
OUTPUT_DIR gets results.txt, .md, .json, .png and examples.png. Interrupted, it goes on; what other weights or settings
gave is never taken for these.

    python soundscapes/evaluate_tiny.py --interpolate asset/demo/rain_dog.wav asset/demo/sea_bird.wav

draws interpolation.png instead: from one clip's embeddings to another's.
"""

import argparse
import json
import os
import sys
from functools import partial
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from macs.audio import AudioError
from macs.files import fingerprint, write_beside
from macs.loading import audio_model_paths, load_pipeline, weight_files
from macs.options import integer, number
from macs.released import CheckpointError
from macs.script import run
from soundscapes import real_recordings
from soundscapes.judge import Judge
from soundscapes.report import examples_figure, interpolation_figure, results_figure, tables
from soundscapes.training import DEVICE, Items
from soundscapes.variants import (
    EXAMPLES,
    VARIANTS,
    encode_scenes,
    first_signals,
    generate,
    generate_variant,
    held_out,
    held_out_scene,
    picture_scores,
)


def cached(path, compute):
    """{name: tensor} from the file, or from compute(), which is then kept there."""
    if not path.exists():
        with write_beside(path) as partial_path:
            save_file({name: value.contiguous() for name, value in compute().items()}, partial_path)
    return load_file(path)


def cache_fingerprints(model_dir, judge_dir, baseline_dir, settings):
    """{variant, or "hearing" for what `encode_scenes` gives: fingerprint} of the weights and settings it depends on.

    settings: scenes, steps, guidance_scale, mixed_precision. What depends on fewer weights is kept when others change.
    """
    judge = weight_files(judge_dir)
    audio = [file for path in audio_model_paths(model_dir) for file in weight_files(path)]
    # from the prompt the stock model generates, whatever the adapter
    stock = [Path(model_dir) / name for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
    whole = weight_files(model_dir) + judge
    return dict.fromkeys(VARIANTS, fingerprint(settings, whole)) | {
        "hearing": fingerprint({"scenes": settings["scenes"]}, audio + judge),
        "text": fingerprint(settings, [file for path in stock for file in weight_files(path)] + judge),
        "mixture": fingerprint(settings, whole + weight_files(baseline_dir)),
    }


def evaluate(
    pipe, baseline, judge, cache_dir, fingerprints, *,
    variants, num_scenes, num_seeds, num_steps, guidance_scale, batch_size, num_workers,
):  # fmt: skip
    """The results, and the examples as `examples_figure` takes them.

    baseline: the pipeline of the variant "mixture". cache_dir: keeps what was computed, under its fingerprint.
    results: {"si_sdr_improvement", "best_signal_improvement": {2: [per seed], 3: ...}, "variants": {variant: {1:
    {measure: [per seed]}, ...}}}
    """
    results = {
        "si_sdr_improvement": {2: [], 3: []},
        "best_signal_improvement": {2: [], 3: []},
        "variants": {name: {k: {"f1": [], "frechet_distance": []} for k in (1, 2, 3)} for name in variants},
    }
    examples = []
    total = tqdm(total=num_seeds * 3 * len(variants), desc="variants of scenes")
    for seed, num_sources in product(range(num_seeds), (1, 2, 3)):

        def path(name, place=f"{seed}-{num_sources}"):
            return cache_dir / f"{name}-{place}-{fingerprints[name]}.safetensors"

        items = Items(partial(held_out, seed, num_sources), 0, num_scenes)
        loader = DataLoader(items, batch_size, num_workers=num_workers)
        encoded = cached(path("hearing"), partial(encode_scenes, pipe, judge, loader))
        if num_sources > 1:
            results["si_sdr_improvement"][num_sources].append(encoded["improvement"].mean().item())
            results["best_signal_improvement"][num_sources].append(encoded["single"].mean().item())
        scenes = [held_out_scene(seed, num_sources, number) for number in range(num_scenes)]
        captions, pictures = [scene.caption for scene in scenes], {}
        for variant in variants:
            features = encoded["painted"]
            if variant != "painted":
                model = baseline if variant == "mixture" else pipe
                make = partial(generate_variant, variant, model, judge, encoded, captions, seed * 3 + num_sources,
                               batch_size, num_steps, guidance_scale)  # fmt: skip
                generated = cached(path(variant), make)
                features, pictures[variant] = generated["features"], generated["images"]
            for measure, value in picture_scores(judge, features, encoded["frames"], encoded["labels"]).items():
                results["variants"][variant][num_sources][measure].append(value)
            total.update()
        if seed == 0:
            for number in range(min(EXAMPLES, num_scenes)):
                of_scene = {name: images[number] for name, images in pictures.items()}
                examples.append((scenes[number], *first_signals(pipe, scenes[number].mixture), of_scene))
    total.close()
    return results, examples


@torch.no_grad()
def interpolate(pipe, judge, clips, num_seeds, num_steps, guidance_scale, batch_size):
    """Generates pictures between the embeddings of two clips (paths), in nine steps.

    Returns the fractions (9,), the pictures [(9, 3, 128, 128) of each seed], the judge's probabilities (9, 19), their
    mean over the seeds, and the largest step between neighbours, as a share of the whole distance in its features.
    """
    first, last = pipe.encode_audio(pipe.prepare_audio(clips))  # (M, D) each
    fractions = torch.linspace(0, 1, 9)
    embeds = torch.stack([F.normalize(first.lerp(last, fraction.item()), dim=-1) for fraction in fractions])
    pictures = [
        torch.cat([
            generate(pipe, [seed] * len(part), num_steps, guidance_scale, source_embeds=part)
            for part in embeds.split(batch_size)
        ])
        for seed in range(num_seeds)
    ]  # fmt: skip
    seen = torch.stack([judge(images).sigmoid() for images in pictures]).mean(0).cpu()
    features = torch.stack([judge.features(images) for images in pictures])  # (seeds, 9, F)
    steps, whole = features.diff(dim=1).norm(dim=-1), (features[:, -1] - features[:, 0]).norm(dim=-1)
    return fractions, [images.cpu() for images in pictures], seen, (steps.amax(1) / whole).mean().item()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="the pipeline (default: %(default)s)")
    parser.add_argument("--work_dir", default="checkpoints/tiny", help="of build_tiny.sh (default: %(default)s)")
    parser.add_argument("--baseline", help="adapter trained without separation (default: WORK_DIR/baseline/adapter)")
    parser.add_argument("--judge", help="(default: WORK_DIR/judge)")
    parser.add_argument("--output_dir", help="results (default: WORK_DIR/evaluation)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="(default: all)")
    parser.add_argument(
        "--scenes", type=integer(1), default=200, help="of each number of sources (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=integer(1), default=3, help="each has its own scenes and noise (default: %(default)s)"
    )
    parser.add_argument("--recordings", default="", help="folder made by soundscapes/prepare_recordings.py, if any")
    parser.add_argument(
        "--pairs", type=integer(1), default=100, help="of recordings, each a mixture (default: %(default)s)"
    )
    parser.add_argument("--steps", type=integer(1), default=20, help="of the sampler (default: %(default)s)")
    parser.add_argument("--guidance_scale", type=number(0), default=7.5, help="(default: %(default)s)")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no", help="bf16: pictures twice as fast")
    parser.add_argument("--batch_size", type=integer(1), default=25, help="(default: %(default)s)")
    parser.add_argument(
        "--num_workers", type=integer(0), default=os.cpu_count() - 1, help="processes that make the scenes"
    )
    parser.add_argument("--interpolate", nargs=2, metavar="CLIP", help="draw interpolation.png instead of measuring")
    args = parser.parse_args()
    args.baseline = args.baseline or Path(args.work_dir) / "baseline" / "adapter"
    args.judge = args.judge or Path(args.work_dir) / "judge"
    args.output_dir = Path(args.output_dir or Path(args.work_dir) / "evaluation")
    if not (Path(args.judge) / "config.json").is_file():
        sys.exit(f"{args.judge}: no judge here; soundscapes/build_tiny.sh or soundscapes/train_judge.py makes one")
    if "mixture" in args.variants and not args.interpolate and not (Path(args.baseline) / "config.json").is_file():
        sys.exit(f"{args.baseline}: no adapter; soundscapes/build_tiny.sh makes it, or give --variants without mixture")
    return args


def main():
    args = parse_arguments()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        judge = Judge.from_pretrained(args.judge).to(DEVICE).eval()
        dtype = {"no": torch.float32, "bf16": torch.bfloat16}[args.mixed_precision]
        pipe, baseline = load_pipeline(args.model_dir, dtype=dtype).to(DEVICE), None
        if "mixture" in args.variants and not args.interpolate:
            baseline = load_pipeline(args.model_dir, args.baseline, num_sources=1, dtype=dtype).to(DEVICE)
            baseline.set_progress_bar_config(disable=True)
    except CheckpointError as error:
        sys.exit(str(error))
    pipe.set_progress_bar_config(disable=True)
    sampling = {"num_steps": args.steps, "guidance_scale": args.guidance_scale, "batch_size": args.batch_size}
    if args.interpolate:
        *drawn, largest = interpolate(pipe, judge, args.interpolate, args.seeds, **sampling)
        names = [Path(clip).stem.replace("_", ", ") for clip in args.interpolate]
        path = args.output_dir / "interpolation.png"
        with write_beside(path) as partial_path:
            interpolation_figure(names, *drawn, judge.config.classes).savefig(partial_path, dpi=130)
        print(f"{path}: the largest step is {largest:.2f} of the whole distance in the judge's features")
        return

    settings = {name: getattr(args, name) for name in ("scenes", "steps", "guidance_scale", "mixed_precision")}
    fingerprints = cache_fingerprints(args.model_dir, args.judge, args.baseline, settings)
    results, examples = evaluate(
        pipe, baseline, judge, args.output_dir / "measured", fingerprints,
        variants=args.variants, num_scenes=args.scenes, num_seeds=args.seeds, num_workers=args.num_workers, **sampling,
    )  # fmt: skip
    if args.recordings:
        try:
            results["real"] = real_recordings.measure(
                pipe, baseline, judge, args.recordings, num_pairs=args.pairs, num_seeds=args.seeds, **sampling
            )
        except AudioError as error:
            sys.exit(f"--recordings {error}")
    results["settings"] = {"scenes of each number of sources": args.scenes, "seeds": args.seeds, "steps": args.steps}
    results["settings"] |= {"guidance_scale": args.guidance_scale}
    text, markdown = tables(results)
    for name, content in (("txt", text), ("md", markdown), ("json", json.dumps(results, indent=2))):
        with write_beside(args.output_dir / f"results.{name}") as path:
            path.write_text(content, encoding="utf-8")
    with write_beside(args.output_dir / "results.png") as path:
        results_figure(results).savefig(path, dpi=130)
    with write_beside(args.output_dir / "examples.png") as path:
        examples_figure(examples).savefig(path, dpi=110)
    print(text)


if __name__ == "__main__":
    run(main)
