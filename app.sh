#!/usr/bin/env bash
# Serves a page to play on, to this machine only. Edit the variables, or set one for a single run: PORT=8000 bash app.sh
# Further arguments go to app.py: bash app.sh --host 0.0.0.0
set -euo pipefail
cd "$(dirname "$0")"

SD_PATH="${SD_PATH:-asset/macs-tiny}"     # the embedded model, or Stable Diffusion: CompVis/stable-diffusion-v1-4
PT_PATH="${PT_PATH:-}"                    # the released weights (alxzzz/MACS), or the folder of an adapter you trained
DATASET_NAME="${DATASET_NAME:-LLP}"       # of the released weights: LLP, AudioSet, Landscape
MIXED_PRECISION="${MIXED_PRECISION:-no}"  # fp16 or bf16 on a GPU
PORT="${PORT:-7860}"

source scripts/setup.sh
python -c 'import gradio' 2>/dev/null \
    || { echo "The page needs Gradio, once: $(command -v python) -m pip install 'gradio>=6,<7'" >&2; exit 1; }
exec python app.py --sd_path "$SD_PATH" --pt_path "$PT_PATH" --dataset_name "$DATASET_NAME" \
    --mixed_precision "$MIXED_PRECISION" --port "$PORT" "$@"
