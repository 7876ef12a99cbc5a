"""The audio attention of all layers of a UNet beside the IP-Adapter processor of diffusers: plain, maps, weights."""

import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import nn

from benchmarks.timing import DEVICE, interleaved, peak_memory
from macs.attention import AudioAttnProcessor, SourceControl

# (side of the latents 64 / factor, channels, cross-attentions) of Stable Diffusion 1.4's UNet at 512 × 512 pixels
LAYERS = [(1, 320, 5), (2, 640, 5), (4, 1280, 5), (8, 1280, 1)]
HEADS, TEXT, SOURCES, CONDITION = 8, 77, 6, 768


def add_arguments(parser):
    parser.add_argument("--side", type=int, default=64, help="of the latents; 64 is 512 pixels")
    parser.add_argument("--batch_size", type=int, default=2, help="rows of the UNet's batch, 2 for a guided image")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default=DEVICE)


@torch.no_grad()
def run(args):
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    control = SourceControl()
    calls = []  # (attention, ours, stock, hidden states)
    for factor, channels, count in LAYERS:
        for _ in range(count):
            attention = Attention(channels, CONDITION, heads=HEADS, dim_head=channels // HEADS).to(args.device, dtype)
            layers = [nn.Linear(CONDITION, channels, bias=False).to(args.device, dtype) for _ in range(2)]
            stock = IPAdapterAttnProcessor2_0(channels, CONDITION, num_tokens=(SOURCES,))
            stock.to_k_ip[0], stock.to_v_ip[0] = layers
            hidden = torch.randn(args.batch_size, (args.side // factor) ** 2, channels, device=args.device, dtype=dtype)
            calls.append((attention, AudioAttnProcessor(*layers, SOURCES, control), stock, hidden))
    text = torch.randn(args.batch_size, TEXT, CONDITION, device=args.device, dtype=dtype)
    sources = torch.randn(args.batch_size, 1, SOURCES, CONDITION, device=args.device, dtype=dtype)
    size = (args.side, args.side)
    weights = torch.tensor([[1.0, 0, 1, 2, 1, 1]], device=args.device)

    def stock():
        for attention, _, processor, hidden in calls:
            processor(attention, hidden, (text, [sources]))

    def ours():
        for attention, processor, _, hidden in calls:
            processor(attention, hidden, (text, [sources]))

    def with_maps():
        with control.during(size, args.batch_size // 2, record=True):
            ours()
            control.mean_shares(size)

    def with_weights():
        with control.during(size, args.batch_size // 2, weights=weights):
            ours()

    functions = {"IP-Adapter (diffusers)": stock, "ours": ours, "ours, maps": with_maps, "ours, weights": with_weights}
    seconds = interleaved(functions, args.repeats, args.device)
    print(f"cross-attentions of one step, batch {args.batch_size}, {args.dtype}, {args.device}")
    for name, value in seconds.items():
        memory = peak_memory(functions[name], args.device)
        print(f"{name:>24}: {value:8.4f} s, {value / seconds['IP-Adapter (diffusers)']:6.3f}, {memory:7.0f} MiB")
