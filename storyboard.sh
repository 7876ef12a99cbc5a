#!/usr/bin/env bash
# A storyboard of a recording of any length -> OUTPUT_DIR/<recording>.png, .pdf, .html. Options: python storyboard.py --help
#   AUDIO=long.wav bash storyboard.sh --panels 8
set -euo pipefail
cd "$(dirname "$0")"

AUDIO="${AUDIO:-asset/demo/rain_dog.wav}" # a recording
OUTPUT_DIR="${OUTPUT_DIR:-output}"
SD_PATH="${SD_PATH:-asset/macs-tiny}"     # the embedded model, or Stable Diffusion: CompVis/stable-diffusion-v1-4
PT_PATH="${PT_PATH:-}"                    # the released weights (alxzzz/MACS), or the folder of an adapter you trained
DATASET_NAME="${DATASET_NAME:-LLP}"       # which of the released weights
MIXED_PRECISION="${MIXED_PRECISION:-no}"  # fp16 or bf16 on a GPU
BATCH_SIZE="${BATCH_SIZE:-4}"
SEED="${SEED:-0}"

source scripts/setup.sh
python storyboard.py --audio "$AUDIO" --output_dir "$OUTPUT_DIR" --sd_path "$SD_PATH" --pt_path "$PT_PATH" \
    --dataset_name "$DATASET_NAME" --mixed_precision "$MIXED_PRECISION" --batch_size "$BATCH_SIZE" --seed "$SEED" "$@"
