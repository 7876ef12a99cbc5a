"""The authors' released weights as a folder of our own in safetensors, which opens faster and needs no other files:

python scripts/convert_released.py --sd_path CompVis/stable-diffusion-v1-4 --pt_path alxzzz/MACS --dataset_name LLP \
    --output_dir weights/macs-LLP
"""

import argparse
import sys
from pathlib import Path

import torch

from macs.pipeline import MACSPipeline
from macs.released import CheckpointError, open_released
from macs.script import run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sd_path", default="CompVis/stable-diffusion-v1-4", help="Stable Diffusion, folder or hub id")
    parser.add_argument("--pt_path", default="alxzzz/MACS", help="the three .pt files, folder or hub id")
    parser.add_argument("--dataset_name", default="LLP", help="LLP, AudioSet or Landscape")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--clap_tokenizer", default="", help="folder or hub id (roberta-base); training alone needs it")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    args = parser.parse_args()

    if Path(args.output_dir).is_dir() and any(Path(args.output_dir).iterdir()):
        sys.exit(f"--output_dir {args.output_dir}: there is something in it already; give a new folder")
    try:
        components = open_released(args.sd_path, args.pt_path, args.dataset_name, dtype=getattr(torch, args.dtype))
    except CheckpointError as error:
        sys.exit(str(error))
    if args.clap_tokenizer:
        from transformers import AutoTokenizer

        components["clap_tokenizer"] = AutoTokenizer.from_pretrained(args.clap_tokenizer)
    MACSPipeline(**components).save_pretrained(args.output_dir)
    print(f"written to {args.output_dir}; use it with: SD_PATH={args.output_dir} bash inference.sh")


if __name__ == "__main__":
    run(main)
