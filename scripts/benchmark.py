"""Timings of MACS, each beside its baseline in the same run: python scripts/benchmark.py SUBJECT [--help].

Machines are noisy: quote the ratios, which are medians over interleaved repeats, not the seconds.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def interleaved(functions, repeats=5, device="cpu"):
    """Runs each of {name: function} once to warm up, then `repeats` times in turn; returns {name: median seconds}."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measures(args):
    """AIS, AIS-z, IIS, IIS-z of N clips, images and frames: each encoded once in batches, then matrix algebra; beside
    the plain version, which encodes both sides of every pair: run for --plain_clips clips and scaled to N."""
    from macs.encoders import SmallAudioEncoder, SmallImageEncoder
    from macs.evaluation import Embedded, evaluate

    n, generator = args.clips, torch.Generator().manual_seed(0)
    images, frames = (torch.randint(256, (n, 3, 128, 128), dtype=torch.uint8, generator=generator) for _ in range(2))
    waveforms = torch.randn(n, 16000, generator=generator)
    image_encoder, audio_encoder = SmallImageEncoder().to(args.device), SmallAudioEncoder().to(args.device)
    audio_encoder.weight = torch.randn(193, 256, generator=generator).to(args.device)
    encoded, calls = {}, dict.fromkeys(("fast", "plain"), 0)

    def encode(encoder, batch, version):
        calls[version] += 1
        return encoder(batch.to(args.device)).cpu()

    @torch.inference_mode()
    def fast():
        for name, data, encoder in (
            ("images", images, image_encoder), ("frames", frames, image_encoder), ("clips", waveforms, audio_encoder)
        ):  # fmt: skip
            encoded[name] = torch.cat([encode(encoder, batch, "fast") for batch in data.split(64)]).numpy()
        ids = [f"{k}" for k in range(n)]
        generated, truth = (Embedded(ids, {"clip": encoded[name]}) for name in ("images", "frames"))
        encoded["result"] = evaluate(
            generated, truth, Embedded(ids, {"audio": encoded["clips"]}), ("ais", "ais_z", "iis", "iis_z"), resamples=0
        )

    @torch.inference_mode()
    def plain():
        for queries, encoder in ((waveforms, audio_encoder), (frames, image_encoder)):
            for i in range(args.plain_clips):
                cosines = torch.stack([
                    torch.cosine_similarity(
                        encode(encoder, queries[i : i + 1], "plain"), encode(image_encoder, images[j : j + 1], "plain")
                    )[0]
                    for j in range(n)
                ])  # fmt: skip
                others = torch.cat([cosines[:i], cosines[i + 1 :]])
                _ = (cosines[i] - others.mean()) / others.std(correction=0)

    seconds = interleaved({"fast": fast, "plain": plain}, repeats=args.repeats, device=args.device)
    runs, scale = args.repeats + 1, n / args.plain_clips
    ours, theirs = calls["fast"] / runs, calls["plain"] / runs * scale
    slow = seconds["plain"] * scale
    print(f"{n} clips: {seconds['fast']:.2f} s, {ours:.0f} encoder calls (batches of 64)")
    print(f"plain: {slow:.0f} s, {theirs:.0f} calls ({args.plain_clips} clips run, times {scale:g})")
    ratios = (slow / seconds["fast"], theirs / ours, theirs / (3 * n))
    print("ratio: {:.0f} in time, {:.0f} in calls, {:.0f} in files encoded".format(*ratios))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(dest="subject", required=True)

    subject = subjects.add_parser("measures", help="the measures' pairwise scores, beside encoding every pair")
    subject.add_argument("--clips", type=int, default=2000, help="clips, images and frames each (default 2000)")
    subject.add_argument("--plain_clips", type=int, default=2, help="clips that the plain version runs (default 2)")
    subject.add_argument("--repeats", type=int, default=3, help="repeats behind the medians (default 3)")
    subject.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    subject.set_defaults(function=measures)

    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
