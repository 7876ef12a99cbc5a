"""A training step of stage one, by parts: U-Net, STFT, CLAP on all signals in one batch or one by one, losses."""

import torch
from transformers import ClapConfig

from benchmarks.timing import DEVICE, interleaved
from macs import ClapEncoder, Separator
from macs.losses import contrastive_loss, mixit_loss, ranking_loss
from soundscapes.make_tiny import make_clap, tokenizers


def add_arguments(parser):
    parser.add_argument("--size", choices=["tiny", "full"], default="tiny", help="tiny: the embedded model's sizes")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--M", type=int, default=6, help="signals")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default=DEVICE)


def run(args):
    torch.manual_seed(0)
    channels, clap = (64, ClapEncoder(ClapConfig())) if args.size == "full" else (16, make_clap(tokenizers()[1]))
    separator = Separator(args.M, channels).to(args.device)
    clap = clap.to(args.device).eval().requires_grad_(False)
    clips = 0.1 * torch.randn(args.batch_size, separator.config.num_samples, device=args.device)
    partners = clips.roll(1, dims=0)
    mixture = clips + partners
    with torch.no_grad():
        sources, power = separator(mixture), separator.stft(mixture).abs().square()[:, None]
        mixture_embeds = clap.encode_audio(mixture)
        embeds = clap.encode_audio(sources.flatten(0, 1)).unflatten(0, sources.shape[:2])
    texts = torch.randn(args.batch_size, 10, embeds.shape[-1], device=args.device)
    texts = torch.nn.functional.normalize(texts, dim=-1)
    sources.requires_grad_()
    embeds.requires_grad_()

    def losses():
        similarity = (embeds * mixture_embeds[:, None]).sum(-1)
        alignment = contrastive_loss(embeds, texts, separator.logit_scale) + ranking_loss(similarity)
        (mixit_loss(sources, clips, partners) + alignment).backward()

    def one_by_one():
        for signal in sources.flatten(0, 1):
            clap.encode_audio(signal[None]).sum().backward(retain_graph=True)

    seconds = interleaved(
        {
            "separator": lambda: separator(mixture).square().sum().backward(),
            "U-Net": lambda: separator.unet(power).sum().backward(),
            "CLAP, signals": lambda: clap.encode_audio(sources.flatten(0, 1)).sum().backward(),
            "CLAP, signals one by one": one_by_one,
            "CLAP, mixtures": lambda: torch.no_grad()(clap.encode_audio)(mixture),
            "losses": losses,
        },
        args.repeats,
        args.device,
    )
    one_by_one_seconds = seconds.pop("CLAP, signals one by one")
    seconds["STFT and inverse"] = seconds.pop("separator") - seconds["U-Net"]
    for name, value in seconds.items():
        print(f"{name:>16}: {value:7.3f} s, {value / sum(seconds.values()):4.0%}")
    print(f"CLAP on all signals in one batch: {one_by_one_seconds / seconds['CLAP, signals']:.1f} times faster")
