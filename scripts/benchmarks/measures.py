"""AIS, AIS-z, IIS and IIS-z: every file encoded once in batches, beside the plain version that encodes every pair."""

import torch

from benchmarks.timing import interleaved
from macs.evaluation.encoders import SmallAudioEncoder, SmallImageEncoder
from macs.evaluation.measures import Embedded, evaluate


def add_arguments(parser):
    parser.add_argument("--clips", type=int, default=2000, help="clips, images and frames each")
    parser.add_argument("--plain_clips", type=int, default=2, help="clips that the plain version runs, then scaled")
    parser.add_argument("--repeats", type=int, default=3, help="repeats behind the medians")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def run(args):
    n, generator = args.clips, torch.Generator().manual_seed(0)
    images, frames = (torch.randint(256, (n, 3, 128, 128), dtype=torch.uint8, generator=generator) for _ in range(2))
    waveforms = torch.randn(n, 16000, generator=generator)
    image_encoder, audio_encoder = SmallImageEncoder(), SmallAudioEncoder()
    audio_encoder.weight = torch.randn(193, 256, generator=generator)
    image_encoder.to(args.device), audio_encoder.to(args.device)
    calls = dict.fromkeys(("once", "plain"), 0)

    def encode(encoder, batch, version):
        calls[version] += 1
        return encoder(batch.to(args.device)).cpu()

    @torch.inference_mode()
    def once():
        def embedded(name, encoder, data):
            rows = torch.cat([encode(encoder, batch, "once") for batch in data.split(64)])
            return Embedded([f"{k}" for k in range(n)], {name: rows.numpy()})

        generated, truth = (embedded("clip", image_encoder, data) for data in (images, frames))
        clips = embedded("audio", audio_encoder, waveforms)
        evaluate(generated, truth, clips, ("ais", "ais_z", "iis", "iis_z"), resamples=0, device=args.device)

    @torch.inference_mode()
    def plain():
        def cosine(encoder, query, image):
            query, image = encode(encoder, query[None], "plain"), encode(image_encoder, image[None], "plain")
            return torch.cosine_similarity(query, image)

        for encoder, queries in ((audio_encoder, waveforms), (image_encoder, frames)):
            for i in range(args.plain_clips):
                cosines = torch.cat([cosine(encoder, queries[i], image) for image in images])
                others = torch.cat([cosines[:i], cosines[i + 1 :]])
                _ = (cosines[i] - others.mean()) / others.std(correction=0)

    seconds = interleaved({"once": once, "plain": plain}, repeats=args.repeats, device=args.device)
    scale = n / args.plain_clips
    fast, slow = seconds["once"], seconds["plain"] * scale
    ours, theirs = calls["once"] / (args.repeats + 1), calls["plain"] / (args.repeats + 1) * scale
    print(f"once:  {fast:.2f} s, {ours:.0f} encoder calls (batches of 64), {3 * n} files encoded")
    print(f"plain: {slow:.0f} s, {theirs:.0f} encoder calls ({args.plain_clips} of {n} clips run, then scaled)")
    print(f"ratio: {slow / fast:.0f} in time, {theirs / ours:.0f} in calls, {theirs / (3 * n):.0f} in files encoded")
