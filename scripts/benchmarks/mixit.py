"""mixit_loss, forward and backward, against direct enumeration: time, peak extra memory, difference in dB."""

import itertools

import torch

from benchmarks.timing import DEVICE, interleaved, peak_memory
from macs.losses import mixit_loss


def add_arguments(parser):
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--M", type=int, default=6, help="signals")
    parser.add_argument("--samples", type=int, default=128_000, help="length of the waveforms")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default=DEVICE)


def direct_mixit_loss(sources, mixture_1, mixture_2, eps=1e-8):
    """MixIT by direct enumeration: for each of the 2**M - 1 assignments the sums as waveforms and their SI-SDR."""

    def si_sdr(estimate, reference):
        estimate, reference = estimate - estimate.mean(-1, keepdim=True), reference - reference.mean(-1, keepdim=True)
        scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + eps)
        target = scale * reference
        return 10 * torch.log10(target.square().sum(-1) / ((estimate - target).square().sum(-1) + eps) + eps)

    losses = []
    for chosen in itertools.product((1.0, 0.0), repeat=sources.shape[1]):
        chosen = sources.new_tensor(chosen)
        if chosen.any():
            losses.append(-si_sdr(chosen @ sources, mixture_1) - si_sdr((1 - chosen) @ sources, mixture_2))
    return torch.stack(losses, dim=1).amin(1).mean()


def run(args):
    generator = torch.Generator(args.device).manual_seed(0)
    mixtures = torch.randn(args.batch_size, 2, args.samples, generator=generator, device=args.device)
    share = torch.rand(args.batch_size, args.M, 2, generator=generator, device=args.device)
    sources = share @ mixtures
    sources += 0.1 * torch.randn(sources.shape, generator=generator, device=args.device)
    sources.requires_grad_()

    def step(loss):
        sources.grad = None
        value = loss(sources, mixtures[:, 0], mixtures[:, 1])
        value.backward()
        return value.item()

    steps = {"closed form": lambda: step(mixit_loss), "enumeration": lambda: step(direct_mixit_loss)}
    seconds = interleaved(steps, args.repeats, args.device)
    memory = {}
    for name, function in steps.items():
        sources.grad = None
        memory[name] = peak_memory(function, args.device)
    difference = abs(steps["closed form"]() - steps["enumeration"]())
    for name in steps:
        print(f"{name:>12}: {seconds[name]:8.3f} s, peak {memory[name]:6.0f} MiB")
    (ours, direct), (our_memory, direct_memory) = seconds.values(), memory.values()
    print(f"{direct / ours:.0f} times faster, {our_memory / direct_memory:.3f} of the memory, {difference:.1e} dB off")
