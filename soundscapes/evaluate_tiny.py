"""Measures the embedded model on held-out soundscapes, per number of sources: python soundscapes/evaluate_tiny.py

Separation: SI-SDR improvement over the mixture, of the best sums of signals and of single ones. Pictures: macro F1 of
the classes that the judge sees in them, and the Fréchet distance in the judge's features to the painted ones. MACS is
held against the same training without separation, its first sources alone, the true stems and the text prompt.
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
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from macs.evaluation.measures import frechet_distance
from macs.files import fingerprint
from macs.loading import audio_model_paths, load_pipeline, weight_files
from macs.losses import si_sdr_improvement
from macs.released import CheckpointError
from soundscapes.judge import Judge
from soundscapes.report import examples_figure, interpolation_figure, results_figure, tables
from soundscapes.scenes import CLASS_TEXTS, CLASSES, make_scene
from soundscapes.training import DEVICE, Items

VARIANTS = ("painted", "text", "stems", "macs", "top3", "top2", "top1", "mixture")
SCENE_SEED, OTHER_SEED = 1000, 2000  # of the scenes and of other pictures of their labels; training has 0 and the like
EXAMPLES = 2  # scenes of each number of sources whose pictures are kept


def to_tensor(image):
    """PIL image -> (3, H, W) in [-1, 1]"""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def held_out_scene(seed, num_sources, number):
    return make_scene("test", 3 * number + num_sources - 1, SCENE_SEED + seed, num_sources)


def held_out(seed, num_sources, number):
    """A held-out scene's tensors: mixture (T,), stems (S, T), labels (19,), its picture and another of its labels."""
    scene = held_out_scene(seed, num_sources, number)
    other = make_scene("test", 3 * number + num_sources - 1, OTHER_SEED + seed, labels=scene.labels)
    return {
        "mixture": torch.from_numpy(scene.mixture),
        "stems": torch.from_numpy(scene.stems),
        "labels": torch.tensor([name in scene.labels for name in CLASSES]),
        "frame": to_tensor(scene.image),
        "other": to_tensor(other.image),
    }


@torch.no_grad()
def hear(pipe, judge, loader):
    """What all variants of N scenes start from: {name: tensor with N rows}.

    macs (N, M, D), mixture (N, 1, D), stems (N, S, D): embeddings, the most similar to the mixture's first.
    improvement, single (N,): of the best sums and of the best single signals, in dB. labels (N, 19). frames, painted
    (N, F): the judge's features of the scenes' pictures and of other pictures of the same labels.
    """
    parts = []
    for batch in loader:
        batch = {name: value.to(DEVICE) for name, value in batch.items()}
        sources = pipe.separate(batch["mixture"])
        mixture = pipe.clap.encode_audio(batch["mixture"])[:, None]
        stems = pipe.encode_sources(batch["stems"])
        order = (stems @ mixture.mT).argsort(dim=1, descending=True)  # (B, S, 1): the rank the adapter knows them by
        parts.append({
            "macs": pipe.encode_sources(sources),
            "mixture": mixture,
            "stems": stems.gather(1, order.expand_as(stems)),
            "improvement": si_sdr_improvement(sources, batch["stems"]).float(),
            "single": si_sdr_improvement(sources, batch["stems"], single=True).float(),
            "labels": batch["labels"],
            "frames": judge.features(batch["frame"]),
            "painted": judge.features(batch["other"]),
        })  # fmt: skip
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def condition(variant, heard, captions, rows):
    """What the pipeline is given for a slice of the scenes, as its arguments."""
    if variant == "text":
        silence = torch.zeros_like(heard["mixture"][rows])
        return {"prompt": captions[rows], "source_embeds": silence, "audio_scale": 0.0}
    if variant.startswith("top"):
        return {"source_embeds": heard["macs"][rows], "top_sources": int(variant[3:])}
    return {"source_embeds": heard[variant][rows]}


def draw(pipe, seeds, args, **condition):
    """Pictures (B, 3, 128, 128) in [-1, 1], of 8 bits; seeds: one for each, the same in all variants."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    condition["source_embeds"] = condition["source_embeds"].to(DEVICE)
    images = pipe(
        **condition,
        generator=generators,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        output_type="pt",
    ).images
    return (images.float() * 255).round() / 127.5 - 1


@torch.no_grad()
def draw_all(pipe, judge, variant, heard, captions, seed, args):
    """The judge's features (N, F) of a variant's pictures, and the first of these, (EXAMPLES, 3, 128, 128)."""
    features, kept = [], []
    for start in tqdm(range(0, args.scenes, args.batch_size), desc=variant, leave=False):
        rows = slice(start, min(start + args.batch_size, args.scenes))
        seeds = [seed * 1_000_003 + number for number in range(rows.start, rows.stop)]
        images = draw(pipe, seeds, args, **condition(variant, heard, captions, rows))
        features.append(judge.features(images).cpu())
        kept.append(images[: max(0, EXAMPLES - start)].cpu())
    return {"features": torch.cat(features), "images": torch.cat(kept)}


def measured(path, measure):
    """{name: tensor} from the file, or from measure(), which is then kept there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in measure().items()}, beside)
        os.replace(beside, path)
    return load_file(path)


@torch.no_grad()
def scores(judge, features, frames, labels):
    """Macro F1 of the classes the judge sees, and the Fréchet distance of features (N, F) and frames (N, F).

    labels (N, 19). A class that is nowhere, neither in the labels nor in the pictures, is left out of the mean.
    """
    seen = judge.head(features.to(DEVICE)).cpu() > 0
    f1 = f1_score(labels.numpy(), seen.numpy(), average="macro", zero_division=np.nan)
    rows = torch.arange(len(features))
    distance = frechet_distance(features.double(), rows, frames.double(), rows, torch.ones(1, len(features)).double())
    return {"f1": float(f1), "frechet_distance": float(distance[0])}


@torch.no_grad()
def first_signals(pipe, mixture):
    """The first three signals (3, T) separated from a clip (T,), and the class that CLAP takes each of them for."""
    texts = pipe.clap.encode_text(CLASS_TEXTS, pipe.clap_tokenizer)
    signals = pipe.separate(torch.from_numpy(mixture)[None])[:, :3]
    nearest = (pipe.encode_sources(signals)[0] @ texts.T).argmax(-1)
    return signals[0].cpu(), [[*CLASSES, "noise"][index] for index in nearest.tolist()]


def evaluate(args, judge, pipe, baseline):
    """The results, and the examples as `examples_figure` takes them.

    results: {"si_sdr_improvement", "best_signal_improvement": {2: [per seed], 3: ...}, "variants": {variant: {1:
    {measure: [per seed]}, ...}}}
    """
    settings = {name: getattr(args, name) for name in ("scenes", "steps", "guidance_scale", "mixed_precision")}
    audio, judging = audio_model_paths(args.model_dir), weight_files(args.judge)
    # another adapter is measured without separating all scenes again
    hearing = fingerprint({"scenes": args.scenes}, [file for path in audio for file in weight_files(path)] + judging)
    files = weight_files(args.model_dir) + judging
    names = dict.fromkeys(args.variants, fingerprint(settings, files))
    # from the prompt the stock model draws, whatever the adapter
    stock = [Path(args.model_dir) / name for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
    names["text"] = fingerprint(settings, [file for path in stock for file in weight_files(path)] + judging)
    if baseline:
        names["mixture"] = fingerprint(settings, files + weight_files(args.baseline))
    results = {
        "si_sdr_improvement": {2: [], 3: []},
        "best_signal_improvement": {2: [], 3: []},
        "variants": {name: {k: {"f1": [], "frechet_distance": []} for k in (1, 2, 3)} for name in args.variants},
    }
    examples = []
    total = tqdm(total=args.seeds * 3 * len(args.variants), desc="variants of scenes")
    for seed in range(args.seeds):
        for num_sources in (1, 2, 3):

            def path(name, weights, place=f"{seed}-{num_sources}"):
                return args.output_dir / "measured" / f"{name}-{place}-{weights}.safetensors"

            items = Items(partial(held_out, seed, num_sources), 0, args.scenes)
            loader = DataLoader(items, args.batch_size, num_workers=args.num_workers)
            heard = measured(path("hearing", hearing), partial(hear, pipe, judge, loader))
            if num_sources > 1:
                results["si_sdr_improvement"][num_sources].append(heard["improvement"].mean().item())
                results["best_signal_improvement"][num_sources].append(heard["single"].mean().item())
            scenes = [held_out_scene(seed, num_sources, number) for number in range(args.scenes)]
            captions, pictures = [scene.caption for scene in scenes], {}
            for variant in args.variants:
                features = heard["painted"]
                if variant != "painted":
                    ears = baseline if variant == "mixture" else pipe
                    drawing = partial(draw_all, ears, judge, variant, heard, captions, seed * 3 + num_sources, args)
                    drawn = measured(path(variant, names[variant]), drawing)
                    features, pictures[variant] = drawn["features"], drawn["images"]
                found = scores(judge, features, heard["frames"], heard["labels"])
                for measure, value in found.items():
                    results["variants"][variant][num_sources][measure].append(value)
                total.update()
            if seed == 0:
                for number in range(min(EXAMPLES, args.scenes)):
                    drawn = {name: images[number] for name, images in pictures.items()}
                    examples.append((scenes[number], *first_signals(pipe, scenes[number].mixture), drawn))
    total.close()
    return results, examples


@torch.no_grad()
def interpolate(args, judge, pipe):
    """Draws interpolation.png: the pictures on the way from one clip's embeddings to another's, and what is in them."""
    first, last = pipe.encode_audio(pipe.prepare_audio(args.interpolate))  # (M, D) each
    way = torch.linspace(0, 1, 9)
    embeds = torch.stack([F.normalize(first.lerp(last, t.item()), dim=-1) for t in way])
    rows = []
    for seed in range(args.seeds):
        batches = embeds.split(args.batch_size)
        rows.append(torch.cat([draw(pipe, [seed] * len(part), args, source_embeds=part) for part in batches]))
    seen = torch.stack([judge(images).sigmoid() for images in rows]).mean(0).cpu()  # (9, 19)
    path = args.output_dir / "interpolation.png"
    names = [Path(clip).stem.replace("_", ", ") for clip in args.interpolate]
    interpolation_figure(path, names, way, [images.cpu() for images in rows], seen, judge.config.classes)
    features = torch.stack([judge.features(images) for images in rows])  # (seeds, 9, F)
    steps, whole = features.diff(dim=1).norm(dim=-1), (features[:, -1] - features[:, 0]).norm(dim=-1)
    print(f"{path}: the largest step is {(steps.amax(1) / whole).mean():.2f} of the way in the judge's features")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="the pipeline (default: %(default)s)")
    parser.add_argument("--work_dir", default="checkpoints/tiny", help="of build_tiny.sh (default: %(default)s)")
    parser.add_argument("--baseline", help="adapter trained without separation (default: WORK_DIR/baseline/adapter)")
    parser.add_argument("--judge", help="(default: WORK_DIR/judge)")
    parser.add_argument("--output_dir", help="results (default: WORK_DIR/evaluation)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="(default: all)")
    parser.add_argument("--scenes", type=int, default=200, help="of each number of sources (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="each has its own scenes and noise (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (default: %(default)s)")
    parser.add_argument("--guidance_scale", type=float, default=7.5, help="(default: %(default)s)")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="no", help="bf16: pictures twice as fast")
    parser.add_argument("--batch_size", type=int, default=25, help="(default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count() - 1, help="processes that make the scenes")
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
    if args.interpolate:
        interpolate(args, judge, pipe)
        return

    results, examples = evaluate(args, judge, pipe, baseline)
    results["settings"] = {"scenes of each number of sources": args.scenes, "seeds": args.seeds, "steps": args.steps}
    results["settings"] |= {"guidance_scale": args.guidance_scale}
    text, markdown = tables(results)
    (args.output_dir / "results.txt").write_text(text, encoding="utf-8")
    (args.output_dir / "results.md").write_text(markdown, encoding="utf-8")
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=2))
    results_figure(args.output_dir / "results.png", results)
    examples_figure(args.output_dir / "examples.png", examples)
    print(text)


if __name__ == "__main__":
    main()
