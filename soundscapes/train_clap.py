"""Trains the embedded model's CLAP on captioned scenes: python soundscapes/train_clap.py --model_dir asset/macs-tiny

Takes MODEL_DIR/clap as soundscapes/make_tiny.py made it and puts the trained one in its place. Resumes when run again.
A scene makes three clips. With --separator it makes five, from what that separator makes of it instead of from parts
cut out of it: once stage one is done, CLAP is trained on with it. With --recordings half of the sources there are
recordings of are real, and sounds that the world does not know are learnt as "Noise". All is heard as people have it
(soundscapes/sound/augment.py).
"""

from functools import lru_cache, partial

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from macs import ClapEncoder, Separator
from macs.audio import AudioError
from macs.script import run
from soundscapes.scenes import CLASS_TEXTS, CLASSES, caption, make_scene
from soundscapes.sound.augment import LINEAR, RECORDED, SHORT, augment
from soundscapes.sound.recordings import NOISE, Recordings
from soundscapes.sound.synthesis import noise
from soundscapes.training import DEVICE, fresh_batches, save_part, train, training_parser

HELD_OUT = 20 * len(CLASSES)  # sources that the trained one is asked to name


def clips_per_scene(separator=""):
    """The mixture, and two parts of it; four where separating it is most of the work."""
    return 5 if separator else 3


@lru_cache(maxsize=1)
def opened(folder):
    return Recordings(folder)


@lru_cache(maxsize=1)
def scene_of(seed, index, recordings="", alone=0.25):
    """Labels and stems (S, 128000) of a scene, made once for the clips of it that follow each other.

    Half of the scenes come from other rooms and microphones: augmentations that change all of their stems alike. With a
    folder of recordings a scene is with the probability `alone` a recording alone, every third of them of a sound that
    the world does not know, which has no label; classes of many sources are likelier than those of a few.
    """
    rng = np.random.default_rng([seed, index, 1])
    recordings = opened(recordings) if recordings else None
    if recordings and rng.random() < alone:
        weights = np.array(list(recordings.shares.values()))
        label = str(rng.choice(recordings.labels, p=weights / weights.sum()))
        label = NOISE if NOISE in recordings.labels and rng.random() < 0.25 else label
        labels, stems = [] if label == NOISE else [label], 0.06 * recordings.excerpt(label, rng)[None]
    else:
        scene = make_scene("train", index, seed, recordings=recordings)
        labels, stems = scene.labels, scene.stems
    if len(stems) == 1:
        stems = augment(stems[0], rng, SHORT)[None]
    if rng.random() < 0.5:
        draw = rng.integers(2**32)
        stems = np.stack([augment(stem, np.random.default_rng(draw), LINEAR) for stem in stems])
    return labels, stems


def cut_out(stems, rng):
    """What a separator might cut out of a mixture: one signal (T,), and the indices of the stems (S, T) it holds.

    Separators leave parts of other sources in a signal and deal one source out to several signals, often by frequency:
    the mask follows one stem's share of the power, now sharply, now hardly, and a smooth random field. A stem is in the
    signal if it makes up a fifth of its energy.
    """
    window = torch.hann_window(400)
    stft = torch.stft(torch.from_numpy(stems), 400, 200, window=window, return_complex=True)  # (S, F, T')
    power = stft.abs().square() + 1e-8
    chosen = rng.integers(len(stems))
    rest = power.sum(0) - power[chosen] + 1e-8
    decibels = 10 * (power[chosen] / rest).log10().clamp(-3, 3)
    coarse = torch.from_numpy(rng.standard_normal((1, 1, rng.integers(2, 9), rng.integers(1, 5)), np.float32))
    field = F.interpolate(coarse, decibels.shape, mode="bilinear", align_corners=True)[0, 0]
    mask = (rng.uniform(0, 0.15) * decibels + rng.uniform(0, 4) * field - rng.uniform(0, 2)).sigmoid()
    signal = torch.istft(mask * stft.sum(0), 400, 200, window=window, length=stems.shape[1]).numpy()
    energies = (mask.square() * power).sum((1, 2))
    return signal, (energies >= 0.2 * energies.sum()).nonzero()[:, 0].tolist()


@lru_cache(maxsize=1)
def trained_separator(folder):
    return Separator.from_pretrained(folder).float().eval()


@lru_cache(maxsize=1)
def separated(folder, seed, index, recordings="", alone=0.25):
    """What the separator makes of a scene: signals (M, T), each stem's share of their energies (M, S), the mixture.

    Half of the scenes come to it as badly recorded as to CLAP.
    """
    separator = trained_separator(folder)
    stems = scene_of(seed, index, recordings, alone)[1]
    rng = np.random.default_rng([seed, index, 2])
    mixture = augment(stems.sum(0), rng, RECORDED if rng.random() < 0.5 else ())
    mixture, stems = separator.level(torch.from_numpy(mixture)[None])[0], torch.from_numpy(stems)
    return *(part.numpy() for part in parted(separator, mixture, stems)), mixture.numpy()


@torch.no_grad()
def parted(separator, mixture, stems):
    """A mixture's (T,) signals (M, T), and the share of each of its stems (S, T) in their energies (M, S)."""
    stft = separator.stft(mixture[None])
    masks = separator.masks(stft)
    parts = separator.apply_masks(masks, separator.stft(stems), stems)  # (S, M, T): of each stem in each signal
    energies = parts.square().sum(-1).T + 1e-8
    signals = separator.apply_masks(masks, stft, mixture[None])[0]
    return signals, energies / energies.sum(1, keepdim=True)


def captioned_clip(seed, index, separator="", recordings=""):
    """A clip (128000,), its caption, and its set of classes as an integer (one bit each).

    Of every scene first the mixture, then what a separator hands on, or, without one, might hand on: parts of it, or
    now and then nothing but noise. Half of the clips are badly recorded, with levels 50 dB apart; of the others the
    loudness varies by 20 dB, of parts by 30 dB.
    """
    number, place = divmod(index, clips_per_scene(separator))
    (labels, stems), rng = scene_of(seed, number, recordings), np.random.default_rng([seed, index])
    clip, loudness, degraded = stems.sum(0), 20, rng.random() < 0.5
    if place and rng.random() < 0.05:
        labels, clip = [], 0.02 * noise(rng, rng.uniform(50, 1000), rng.uniform(2000, 7900), rng.uniform(-1, 5))
    elif place:
        if separator:
            signals, shares, _ = separated(separator, seed, number, recordings)
            chosen = np.random.default_rng([seed, number]).permutation(len(signals))[place % len(signals)]
            clip, heard = signals[chosen], np.flatnonzero(shares[chosen] >= 0.2)
            degraded = False  # that was the mixture
        else:
            clip, heard = cut_out(stems, rng)
        labels, loudness = [labels[stem] for stem in heard if labels], 30
    clip = augment(clip, rng, RECORDED) if degraded else clip * 10 ** (-rng.uniform(0, loudness) / 20)
    clip = clip + 10 ** -rng.uniform(3.5, 6) * rng.standard_normal(len(clip))
    text = caption(labels, rng) if labels else CLASS_TEXTS[-1]
    return torch.from_numpy(clip.astype(np.float32)), text, sum(1 << CLASSES.index(name) for name in labels)


def contrastive_loss(audio, text, classes, logit_scale):
    """CLAP's symmetric cross entropy; clips of the same classes (N,) count as each other's match too.

    audio, text (N, D), unit norm; with one to three sources of nineteen classes a batch holds many such clips.
    """
    matches = (classes[:, None] == classes[None]).float()
    logits = logit_scale.exp() * audio @ text.T
    return 0.5 * sum(F.cross_entropy(rows, matches / matches.sum(1, keepdim=True)) for rows in (logits, logits.T))


def naming_loss(audio, named, classes, logit_scale):
    """Cross entropy of clips towards the names of their sources: audio (N, D), named (C + 1, D), the last is "Noise".

    A batch of captions holds each class a few times only; all the names in every step make a small CLAP learn several
    times as fast.
    """
    bits = 2 ** torch.arange(len(named) - 1, device=classes.device)
    there = (classes[:, None] & bits) > 0
    target = torch.cat([there, ~there.any(1, keepdim=True)], dim=1).float()
    return F.cross_entropy(logit_scale.exp() * audio @ named.T, target / target.sum(1, keepdim=True))


def main():
    parser = training_parser(__doc__, trains="clap/", scenes=40000, batch_size=32, lr=5e-4)
    parser.add_argument("--separator", default="", help="folder of a trained separator: CLAP learns its signals")
    parser.add_argument("--recordings", default="", help="folder made by soundscapes/prepare_recordings.py, if any")
    args = parser.parse_args()
    if args.recordings:
        try:
            opened(args.recordings)
        except AudioError as error:
            raise SystemExit(f"--recordings {error}") from None

    clap = ClapEncoder.from_pretrained(args.model_dir, subfolder="clap", dtype=torch.float32).to(DEVICE)
    tokenizer = AutoTokenizer.from_pretrained(args.model_dir, subfolder="clap_tokenizer")

    def loss_of(batch):
        clips, texts, classes = batch
        audio, text = clap.encode_audio(clips.to(DEVICE)), clap.encode_text([*texts, *CLASS_TEXTS], tokenizer)
        text, named = text.float().split([len(texts), len(CLASS_TEXTS)])
        classes = classes.to(DEVICE)
        return contrastive_loss(audio.float(), text, classes, clap.logit_scale_a) + naming_loss(
            audio.float(), named, classes, clap.logit_scale_t
        )

    steps = clips_per_scene(args.separator) * args.scenes // args.batch_size
    make = partial(captioned_clip, args.seed, separator=args.separator, recordings=args.recordings)
    batches = fresh_batches(make, args.batch_size, steps, args.num_workers)
    name = "clap_separated" if args.separator else "clap"
    train(name, {"clap": clap}, batches, loss_of, steps, args.lr, args.output_dir, args.seed, args.bf16)

    # Which of «The sound of <class>» is nearest to a held-out source?
    with torch.no_grad():
        texts = clap.encode_text(CLASS_TEXTS[:-1], tokenizer)
        scenes = [make_scene("val", index, args.seed, num_sources=1) for index in range(HELD_OUT)]
        clips = torch.from_numpy(np.stack([scene.mixture for scene in scenes]))
        nearest = torch.cat(
            [(clap.encode_audio(part.to(DEVICE)) @ texts.T).argmax(1).cpu() for part in clips.split(32)]
        )
    right = np.mean([CLASSES[n] == scene.labels[0] for n, scene in zip(nearest.tolist(), scenes, strict=True)])
    save_part(clap, args.model_dir, "clap")
    print(f"clap: names {right:.1%} of {len(scenes)} held-out sources")


if __name__ == "__main__":
    run(main)
