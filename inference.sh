#!/usr/bin/env bash
# Turns recordings into images. Edit the variables, or set one for a single run: OUTPUT_DIR=pictures bash inference.sh
# Further arguments go to inference.py: bash inference.sh --audio my.wav --save_sources
set -euo pipefail
cd "$(dirname "$0")"

AUDIO="${AUDIO:-asset/demo}"              # a recording or a folder of them
DATA_DIR="${DATA_DIR:-}"                  # instead of AUDIO: the folder that holds DATASET_NAME/DATA_SET/audio
DATASET_NAME="${DATASET_NAME:-LLP}"       # LLP, AudioSet, Landscape or your own
DATA_SET="${DATA_SET:-test}"
OUTPUT_DIR="${OUTPUT_DIR:-output}"
SD_PATH="${SD_PATH:-asset/macs-tiny}"     # the embedded model, or Stable Diffusion: CompVis/stable-diffusion-v1-4
PT_PATH="${PT_PATH:-}"                    # the released weights (alxzzz/MACS), or the folder of an adapter you trained
MIXED_PRECISION="${MIXED_PRECISION:-no}"  # fp16 or bf16 on a GPU
INIT_IMAGE="${INIT_IMAGE:-}"              # a picture that the sound changes, or a folder with one named as each clip
STRENGTH="${STRENGTH:-0.8}"               # how far INIT_IMAGE is drawn anew, 0 to 1
MASK="${MASK:-}"                          # with INIT_IMAGE: draw in its white part only; a picture or a folder
CONTROLNET="${CONTROLNET:-}"              # a ControlNet, folder or hub id, with CONTROL_IMAGE
CONTROL_IMAGE="${CONTROL_IMAGE:-}"
LORA="${LORA:-}"                          # one LoRA: PATH_OR_ID:WEIGHT
SCHEDULER="${SCHEDULER:-}"                # DDIM, EulerDiscrete, ...; the model's own if empty
PRESET="${PRESET:-}"                      # lcm, hyper or turbo: a few steps, with the LoRA that belongs to it
BATCH_SIZE="${BATCH_SIZE:-4}"
SEED="${SEED:-0}"

source scripts/setup.sh
if [ -n "$DATA_DIR" ]; then
    input=(--data_dir "$DATA_DIR" --data_set "$DATA_SET")
else
    input=(--audio "$AUDIO")
fi
[ -z "$INIT_IMAGE" ] || input+=(--init_image "$INIT_IMAGE" --strength "$STRENGTH")
[ -z "$MASK" ] || input+=(--mask "$MASK")
[ -z "$CONTROLNET" ] || input+=(--controlnet "$CONTROLNET")
[ -z "$CONTROL_IMAGE" ] || input+=(--control_image "$CONTROL_IMAGE")
[ -z "$LORA" ] || input+=(--lora "$LORA")
[ -z "$SCHEDULER" ] || input+=(--scheduler "$SCHEDULER")
[ -z "$PRESET" ] || input+=(--preset "$PRESET")
python inference.py "${input[@]}" --dataset_name "$DATASET_NAME" --output_dir "$OUTPUT_DIR" \
    --sd_path "$SD_PATH" --pt_path "$PT_PATH" --mixed_precision "$MIXED_PRECISION" \
    --batch_size "$BATCH_SIZE" --seed "$SEED" "$@"
