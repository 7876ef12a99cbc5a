"""What the embedded model is measured with: held-out scenes, the variants' pictures of them, and their scores."""

import numpy as np
import torch
from sklearn.metrics import f1_score
from tqdm import tqdm

from macs.evaluation.measures import frechet_distance
from macs.losses import si_sdr_improvement
from soundscapes.scenes import CLASS_TEXTS, CLASSES, make_scene
from soundscapes.training import DEVICE

# a picture is made from: the labels (painted anew), the prompt, the true stems, all M or the first signals, the mixture
VARIANTS = ("painted", "text", "stems", "macs", "top3", "top2", "top1", "mixture")
SCENE_SEED, OTHER_SEED = 1000, 2000  # of the scenes and of other pictures of their labels; training has 0 and the like
EXAMPLES = 2  # scenes of each number of sources whose pictures are kept


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
        "frame": torch.from_numpy(scene.pixels),
        "other": torch.from_numpy(other.pixels),
    }


def improvement(sources, stems, single):
    """SI-SDR improvement in dB, (N,), of signals (N, M, T) over stems (N, S, T); NaN where there are fewer signals."""
    if sources.shape[1] < stems.shape[1]:
        return torch.full((len(stems),), torch.nan)
    return si_sdr_improvement(sources, stems, single).float()


@torch.no_grad()
def encode_scenes(pipe, judge, loader):
    """What the variants start from, of N scenes: {name: tensor with N rows}.

    macs (N, M, D), mixture (N, 1, D), stems (N, S, D): embeddings, the most similar to the mixture's first.
    improvement, single (N,): of the best sums and of the best single signals, in dB, NaN for M < S. labels (N, 19).
    frames, painted (N, F): the judge's features of the scenes' pictures and of other pictures of the same labels.
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
            "improvement": improvement(sources, batch["stems"], single=False),
            "single": improvement(sources, batch["stems"], single=True),
            "labels": batch["labels"],
            "frames": judge.features(batch["frame"]),
            "painted": judge.features(batch["other"]),
        })  # fmt: skip
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def pipeline_inputs(variant, encoded, captions, rows):
    """The arguments with which the pipeline generates a variant of a slice of the scenes."""
    if variant == "text":
        silence = torch.zeros_like(encoded["mixture"][rows])
        return {"prompt": captions[rows], "source_embeds": silence, "audio_scale": 0.0}
    if variant.startswith("top"):
        return {"source_embeds": encoded["macs"][rows], "top_sources": int(variant[3:])}
    return {"source_embeds": encoded[variant][rows]}


def generate(pipe, seeds, num_steps, guidance_scale, **inputs):
    """Pictures (B, 3, 128, 128) in [-1, 1], of 8 bits; seeds: one for each. inputs: of the pipeline."""
    inputs["source_embeds"] = inputs["source_embeds"].to(DEVICE)
    images = pipe(
        **inputs,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        output_type="pt",
    ).images
    return (images.float() * 255).round() / 127.5 - 1


@torch.no_grad()
def generate_variant(variant, pipe, judge, encoded, captions, seed, batch_size, num_steps, guidance_scale):
    """The judge's features (N, F) of a variant's pictures, and the first of these, (EXAMPLES, 3, 128, 128).

    Picture number n has the same noise in all variants, whatever the batch size.
    """
    features, kept = [], []
    for start in tqdm(range(0, len(captions), batch_size), desc=variant, leave=False):
        rows = slice(start, min(start + batch_size, len(captions)))
        seeds = [seed * 1_000_003 + number for number in range(rows.start, rows.stop)]
        inputs = pipeline_inputs(variant, encoded, captions, rows)
        images = generate(pipe, seeds, num_steps, guidance_scale, **inputs)
        features.append(judge.features(images).cpu())
        kept.append(images[: max(0, EXAMPLES - start)].cpu())
    return {"features": torch.cat(features), "images": torch.cat(kept)}


@torch.no_grad()
def picture_scores(judge, features, frames, labels):
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
