"""What sound adds to Stable Diffusion: the audio part and the adapter, against StableDiffusionPipeline."""

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import ClapConfig, CLIPTextConfig, CLIPTextModel

from benchmarks.timing import DEVICE, interleaved
from macs import AudioAdapter, ClapEncoder, MACSPipeline, Separator
from soundscapes import make_tiny


def add_arguments(parser):
    parser.add_argument("--size", choices=["tiny", "sd14"], default="tiny", help="random weights of this architecture")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--height", type=int, default=None, help="pixels of a side; the model's own if not given")
    parser.add_argument("--no_decode", action="store_true", help="leave the VAE out")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
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
    pipe = MACSPipeline(vae, text_encoder, tokenizer, unet, scheduler, separator, clap, adapter)
    pipe.to(device, dtype).set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def run(args):
    pipe = random_pipeline(args.size, args.device, getattr(torch, args.dtype))
    stock = StableDiffusionPipeline(
        pipe.vae, pipe.text_encoder, pipe.tokenizer, pipe.unet, pipe.scheduler, None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    stock.set_progress_bar_config(disable=True)
    prompt_embeds, negative_prompt_embeds = pipe.encode_prompt("", args.device, 1, True)
    for batch_size in args.batch_sizes:
        mixtures = 0.1 * torch.randn(batch_size, pipe.separator.config.num_samples, device=args.device)
        sources, embeddings = pipe.separate(mixtures), pipe.encode_audio(mixtures)
        settings = {
            "num_inference_steps": args.steps,
            "height": args.height,
            "width": args.height,
            "output_type": "latent" if args.no_decode else "np",
            "prompt_embeds": prompt_embeds.expand(batch_size, -1, -1),
            "negative_prompt_embeds": negative_prompt_embeds.expand(batch_size, -1, -1),
        }

        def stable_diffusion(settings=settings):
            with pipe.adapter.detached(pipe.unet):
                stock(**settings)

        seconds = interleaved(
            {
                "Stable Diffusion": stable_diffusion,
                "MACS, embeddings given": lambda: pipe(source_embeds=embeddings, **settings),  # noqa: B023
                "MACS": lambda: pipe(mixtures, **settings),  # noqa: B023
                "separator": lambda: pipe.separate(mixtures),  # noqa: B023
                "CLAP": lambda: pipe.encode_sources(sources),  # noqa: B023
            },
            args.repeats,
            args.device,
        )
        print(f"batch {batch_size}, {args.size}, {args.dtype}, {args.steps} steps, {args.device}")
        for name, value in seconds.items():
            print(f"{name:>24}: {value:8.3f} s, {value / seconds['Stable Diffusion']:7.1%} of Stable Diffusion")
        if torch.device(args.device).type == "cuda":
            print(f"{'peak memory':>24}: {torch.cuda.max_memory_allocated() / 2**30:8.2f} GiB")
