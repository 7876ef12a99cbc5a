"""What a picture costs: stock Stable Diffusion, what sound adds to it, few steps, and the published order.

The published order is float32, one clip at a time, CLAP signal by signal. TFLOP/s are the UNet's operations over the
whole time; the share is of what a large product of matrices reaches on this device in this dtype, measured in the same
run.
"""

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import ClapConfig, CLIPTextConfig, CLIPTextModel

from benchmarks.timing import DEVICE, device_name, interleaved, operations, peak_memory, peak_operations
from macs import AudioAdapter, ClapEncoder, MACSPipeline, Separator
from macs.devices import speed_up
from macs.presets import PRESETS, preset_scheduler
from soundscapes import make_tiny


def add_arguments(parser):
    parser.add_argument("--size", choices=["tiny", "sd14"], default="tiny", help="random weights of this architecture")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--height", type=int, default=None, help="pixels of a side; the model's own if not given")
    parser.add_argument("--no_decode", action="store_true", help="leave the VAE out")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="the UNet's blocks, of all rows but the published order")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default=DEVICE)


def random_pipeline(size, device, dtype):
    """A MACSPipeline with random weights: the embedded architecture, or the full one on Stable Diffusion 1.4's."""
    torch.manual_seed(0)
    tokenizer, clap_tokenizer = make_tiny.tokenizers()
    if size == "tiny":
        unet, vae, clap = make_tiny.make_unet(), make_tiny.make_vae(), make_tiny.make_clap(clap_tokenizer)
        text_encoder, separator = make_tiny.make_text_encoder(tokenizer), Separator(channels=16)
        adapter = AudioAdapter.from_unet(unet, embedding_dim=256, hidden_dim=512)
    else:
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512], layers_per_block=2, sample_size=512,
        )  # fmt: skip
        text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, eos_token_id=1)
        text_encoder, separator, clap = CLIPTextModel(text), Separator(), ClapEncoder(ClapConfig())
        adapter = AudioAdapter.from_unet(unet)
    scheduler = DPMSolverMultistepScheduler(**make_tiny.SCHEDULE)
    for part in (vae, unet, text_encoder, separator, clap, adapter):
        part.eval()
    pipe = MACSPipeline(vae, text_encoder, tokenizer, unet, scheduler, separator, clap, adapter)
    pipe.to(device, dtype).set_progress_bar_config(disable=True)
    return pipe


def stock_pipeline(pipe):
    """StableDiffusionPipeline of the same models."""
    stock = StableDiffusionPipeline(
        pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    stock.set_progress_bar_config(disable=True)
    return stock


def unet_operations(config, height, width):
    """Operations of one row of a stock UNet; height, width: of the latents."""
    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel.from_config(config).eval()
        latents = torch.empty(1, config.in_channels, height, width)
        text = torch.empty(1, 77, config.cross_attention_dim)
        return operations(lambda: unet(latents, torch.empty(1), text))


def published_order(pipe, mixtures, settings):
    """Clip by clip, CLAP signal by signal."""
    for mixture in mixtures:
        sources = pipe.separate(mixture[None])[0]
        embeddings = torch.cat([pipe.encode_sources(source[None, None])[0] for source in sources])
        pipe(source_embeds=embeddings[None], **settings)


@torch.no_grad()
def run(args):
    dtype = getattr(torch, args.dtype)
    pipe = random_pipeline(args.size, args.device, dtype)
    ours_is_published = dtype == torch.float32 and not args.compile
    published = pipe if ours_is_published else random_pipeline(args.size, args.device, torch.float32)
    few = MACSPipeline(**pipe.components | {"scheduler": preset_scheduler("lcm", pipe.scheduler)})
    few.set_progress_bar_config(disable=True)
    stock = stock_pipeline(pipe)
    height, width = (args.height, args.height) if args.height else pipe.own_size
    speed_up(pipe, max(args.batch_sizes), (height, width), args.compile)
    scale = pipe.vae_scale_factor
    with pipe.adapter.detached(pipe.unet):
        row = unet_operations(pipe.unet.config, height // scale, width // scale)
    peak = peak_operations(args.device, dtype)
    print(f"{device_name(args.device)}, {args.dtype}: {peak / 1e12:.3f} TFLOP/s in a product of matrices")
    print(f"{args.size}, {height}x{width}, {args.steps} guided steps, {row / 1e12:.4f} TFLOP a pass of the UNet")
    for batch_size in args.batch_sizes:
        mixtures = 0.1 * torch.randn(batch_size, pipe.separator.config.num_samples, device=args.device)
        sources, embeddings = pipe.separate(mixtures), pipe.encode_audio(mixtures)
        settings = {"num_inference_steps": args.steps, "height": height, "width": width}
        settings["output_type"] = "latent" if args.no_decode else "np"
        texts = {"prompt": [""] * batch_size, "negative_prompt": [""] * batch_size}

        def stable_diffusion(settings=settings, texts=texts):
            with pipe.adapter.detached(pipe.unet):
                stock(**settings, **texts)

        preset = {"num_inference_steps": PRESETS["lcm"].steps, "guidance_scale": PRESETS["lcm"].guidance_scale}
        rows = {  # name: (function, passes of the UNet for a picture)
            "Stable Diffusion": (stable_diffusion, 2 * args.steps),
            "MACS, embeddings given": (lambda: pipe(source_embeds=embeddings, **settings), 2 * args.steps),  # noqa: B023
            "MACS": (lambda: pipe(mixtures, **settings), 2 * args.steps),  # noqa: B023
            "MACS, preset lcm": (lambda: few(mixtures, **settings | preset), PRESETS["lcm"].steps),  # noqa: B023
            "published order": (lambda: published_order(published, mixtures, settings), 2 * args.steps),  # noqa: B023
            "separator alone": (lambda: pipe.separate(mixtures), 0),  # noqa: B023
            "CLAP alone": (lambda: pipe.encode_sources(sources), 0),  # noqa: B023
        }
        functions = {name: function for name, (function, _) in rows.items()}
        seconds = interleaved(functions, args.repeats, args.device)
        print(f"batch {batch_size}: medians of {args.repeats} interleaved repeats")
        for name, value in seconds.items():
            rate = rows[name][1] * batch_size * row / value
            done = f"{rate / 1e12:8.3f} TFLOP/s, {rate / peak:6.1%} of the peak" if rate else ""
            memory = peak_memory(functions[name], args.device)
            print(
                f"{name:>24}: {value:8.3f} s, {batch_size / value:8.3f} images/s, "
                f"{seconds['Stable Diffusion'] / value:7.3f} times Stable Diffusion, {memory:7.0f} MiB {done}"
            )
