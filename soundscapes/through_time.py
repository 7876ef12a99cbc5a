"""Measures timeline and film on minutes in which sources come and go at known times.

    python soundscapes/through_time.py --minutes 4

Per second, what the judge sees in the film against what sounds (F1); the change between neighbouring frames while the
same sources sound (flicker), and in two seconds of every minute at 8 frames per second, a film's usual rate; beside
pictures of the same windows, each from a noise of its own. And in how many windows a source keeps its number, with the
separator's own order beside it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from macs.files import write_beside
from macs.film import choose_noise, film_frames, frame_times
from macs.loading import load_pipeline
from macs.options import integer, number
from macs.script import run
from soundscapes.judge import Judge
from soundscapes.sound.recipes import AMBIENCES, EVENTS, synthesise
from soundscapes.sound.synthesis import SAMPLE_RATE

FADE = SAMPLE_RATE // 2
STRETCH, FILM_FPS = 2, 8  # s, frames/s: of the part of a minute that is drawn at a film's usual rate


@dataclass
class Minute:
    """parts: [(label, entry, exit in s)]. stems (S, T) float32 at 16 kHz sum to the mixture (T,)."""

    parts: list
    stems: np.ndarray

    @property
    def mixture(self):
        return self.stems.sum(0)

    @property
    def seconds(self):
        return self.stems.shape[1] // SAMPLE_RATE

    def sounding(self):
        """{label: (seconds,) bool}: the seconds in which each sounds."""
        second = np.arange(self.seconds)
        return {label: (second >= start) & (second < end) for label, start, end in self.parts}


def make_minute(index, seed=0):
    """Number 0: rain, in it a dog (10-25 s), a bell (30-40), a train (45-60); the others as drawn."""
    rng = np.random.default_rng([index, seed, 23])
    if index == 0:
        parts = [("rain", 0, 60), ("dog", 10, 25), ("bell", 30, 40), ("train", 45, 60)]
    else:
        events = rng.permutation(list(EVENTS))[:3].tolist()
        now, parts = int(rng.integers(5, 12)), [(str(rng.choice(list(AMBIENCES))), 0, 60)]
        for i, event in enumerate(events):
            end = min(60, now + int(rng.integers(9, 16)))
            parts.append((event, now, end))
            now = end + int(rng.integers(-2, 6)) if i < 2 else 0
    stems = np.stack([_stem(rng, *part) for part in parts])
    stems *= 10 ** (rng.uniform(-6, 0, (len(stems), 1)).astype(np.float32) / 20)
    mixture = stems.sum(0)
    stems *= min(0.06 / mixture.std(), 0.95 / np.abs(mixture).max())
    return Minute(parts, stems.astype(np.float32))


def _stem(rng, label, start, end, seconds=60):
    """One clip of 8 s of the class, repeated from start to end with cross-fades: the same dog all the time."""
    clip = synthesise(label, rng)
    ramp = np.sin(np.linspace(0, np.pi / 2, FADE, dtype=np.float32))
    clip = clip.copy()
    clip[:FADE] *= ramp
    clip[-FADE:] *= ramp[::-1]
    stem = np.zeros(seconds * SAMPLE_RATE, np.float32)
    for onset in range(start * SAMPLE_RATE, end * SAMPLE_RATE, len(clip) - FADE):
        part = stem[onset : min(onset + len(clip), end * SAMPLE_RATE)]
        part += clip[: len(part)]
    return stem


def second_f1(seen, sounding, seconds):
    """The mean over frames of F1 between the classes seen and those that sound.

    seen: a list of label lists, one a frame. sounding: of `Minute.sounding`. seconds: the second each frame is in.
    """
    scores = []
    for labels, second in zip(seen, seconds, strict=True):
        true = {label for label, there in sounding.items() if there[second]}
        hits = len(true & set(labels))
        scores.append(2 * hits / max(1, len(true) + len(set(labels))))
    return float(np.mean(scores))


def flicker(features, sounding, seconds):
    """The mean distance of neighbouring frames' features (N, D) where the same classes sound in both."""
    heard = np.stack(list(sounding.values()))[:, seconds]
    same = (heard[:, 1:] == heard[:, :-1]).all(0)
    return float((features[1:] - features[:-1]).norm(dim=1)[torch.from_numpy(same)].mean())


@torch.no_grad()
def followed(pipe, timeline, minute):
    """For each source of a minute: the share of windows in which it has its usual number.

    That is the followed source that holds most of its stem's energy over all windows; a window counts as kept where it
    holds the most, or within 3 dB of it, as the separator splits some sources in two halves. Windows in which it sounds
    for less than 2 s are left out. Returns (shares with following, shares of the separator's own order).
    """
    size, numbers = pipe.separator.config.num_samples, [[] for _ in minute.parts]
    for window, start in enumerate(timeline.starts.tolist()):
        first = round(start * SAMPLE_RATE)
        stems = torch.from_numpy(minute.stems[:, first : first + size])
        stems = torch.nn.functional.pad(stems, (0, size - stems.shape[1]))
        masks = pipe.separator.masks(pipe.separator.stft(stems.sum(0, keepdim=True)))
        for i, (_, entry, end) in enumerate(minute.parts):
            if min(end, start + timeline.window_seconds) - max(entry, start) < 2:
                continue
            stem = stems[i : i + 1]
            energy = pipe.separator.apply_masks(masks, pipe.separator.stft(stem), stem)[0].square().sum(-1)  # (M,)
            numbers[i].append(torch.stack([energy[timeline.signals[window]], energy]))
    kept = []
    for energies in numbers:
        energies = torch.stack(energies, 1)  # (followed or not, windows, M)
        usual = energies.sum(1).argmax(1)
        held = energies[torch.arange(2), :, usual] >= 0.5 * energies.amax(2)
        kept.append(held.float().mean(1).tolist())
    return tuple(zip(*kept, strict=True))


def measure(pipe, judge, index, folder, fps, candidates, **settings):
    """{measure: value} of one minute: the film, and pictures of the same windows drawn independently of each other."""
    minute = make_minute(index)
    path = Path(folder) / f"minute-{index}.wav"
    soundfile.write(path, minute.mixture, SAMPLE_RATE, subtype="PCM_16")  # a FLOAT file holds the time of writing
    timeline = pipe.listen(path, cache_dir=folder)
    sounding, results = minute.sounding(), {}
    times = frame_times(minute.seconds, fps)
    seconds = times.long().tolist()
    seed = 1000 * index  # another in every minute, so that none suits or spoils all of them
    number = choose_noise(pipe, timeline, times, seed, candidates, **settings)
    for name, pixels in drawn(pipe, timeline, times, seed, number, **settings).items():
        results[f"F1, {name}"] = second_f1(judge.recognise(pixels), sounding, seconds)
        results[f"flicker, {name}"] = flicker(judge.features(pixels), sounding, seconds)
    times = steady_second(sounding) + frame_times(STRETCH, FILM_FPS)
    for name, pixels in drawn(pipe, timeline, times, seed, number, **settings).items():
        results[f"flicker at {FILM_FPS}/s, {name}"] = flicker(judge.features(pixels), sounding, times.long().tolist())
    results["followed"], results["not followed"] = (float(np.mean(s)) for s in followed(pipe, timeline, minute))
    return results


def steady_second(sounding):
    """The middle of the longest stretch in which the same sources sound: the second where STRETCH s may begin."""
    heard = np.stack(list(sounding.values()))
    edges = [0, *(np.flatnonzero((heard[:, 1:] != heard[:, :-1]).any(0)) + 1).tolist(), heard.shape[1]]
    start, end = max(zip(edges[:-1], edges[1:], strict=True), key=lambda part: part[1] - part[0])
    return max(start, (start + end - STRETCH) // 2)


def drawn(pipe, timeline, times, seed, number, **settings):
    """Pictures (N, 3, H, W) in [-1, 1] of the times: the film's, of one noise; of the nearest windows, each of its own.

    seed, number: of the film's noise, see `macs.film.choose_noise`.
    """
    nearest = (times[:, None] - timeline.starts[None] - timeline.window_seconds / 2).abs().argmin(1)
    alone = []
    for frame, window in enumerate(nearest.tolist()):
        noise = torch.Generator().manual_seed(seed + frame)
        alone += pipe(source_embeds=timeline.rank_embeds[window, None], generator=noise, **settings).images
    pictures = {"film": film_frames(pipe, timeline, times, seed, number=number, **settings), "independent": alone}
    return {
        name: torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2) / 127.5 - 1
        for name, images in pictures.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model_dir", default="asset/macs-tiny", help="the embedded model")
    parser.add_argument("--judge", default="tests/judge", help="the judge")
    parser.add_argument("--minutes", type=integer(1), default=4, help="recordings of a minute")
    parser.add_argument("--fps", type=number(0.5, 8), default=1.0, help="frames per second")
    parser.add_argument("--candidates", type=integer(1), default=4, help="noises, of which a film gets the best")
    parser.add_argument("--start", type=integer(0), default=0, help="number of the first minute")
    parser.add_argument("--steps", type=integer(1), default=10, help="denoising steps")
    parser.add_argument("--output_dir", default="output/through_time", help="recordings and results.json")
    args = parser.parse_args()
    pipe, judge = load_pipeline(args.model_dir), Judge.from_pretrained(args.judge).eval()
    pipe.set_progress_bar_config(disable=True)
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"num_inference_steps": args.steps}
    results = []
    for index in range(args.start, args.start + args.minutes):
        with torch.no_grad():
            results.append(measure(pipe, judge, index, folder, args.fps, args.candidates, **settings))
        print(index, {name: round(value, 3) for name, value in results[-1].items()}, flush=True)
    mean = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    with write_beside(folder / "results.json") as partial:
        partial.write_text(json.dumps({"mean": mean, "minutes": results}, indent=2))
    print("mean", {name: round(value, 3) for name, value in mean.items()})


if __name__ == "__main__":
    run(main)
