#!/usr/bin/env bash
# The seven measures of generated images, beside the paper's. Further arguments go to evaluate.py: --folds 5, --help.
set -euo pipefail

DATA_DIR="${DATA_DIR:-data}"                 # holds DATASET_NAME/test/{audio,image}
DATASET_NAME="${DATASET_NAME:-LLP}"          # LLP, AudioSet or Landscape
DATA_SET="${DATA_SET:-test}"
PRED="${PRED:-output}"                       # generated images, <clip id>.png; further folders: --pred NAME=FOLDER ...
OUTPUT_DIR="${OUTPUT_DIR:-output/evaluation}"
CLIP="${CLIP:-}"                             # folder or hub id; empty: openai/clip-vit-base-patch32
WAV2CLIP="${WAV2CLIP:-}"                     # Wav2CLIP.pt; empty: its release
INCEPTION="${INCEPTION:-}"                   # folder of inception-2015-12-05.pt; empty: clean-fid's

cd "$(dirname "$0")/.."
source scripts/setup.sh

exec python scripts/evaluate.py --data_dir "$DATA_DIR" --dataset_name "$DATASET_NAME" --data_set "$DATA_SET" \
    --pred "$PRED" --output_dir "$OUTPUT_DIR" --clip "$CLIP" --wav2clip "$WAV2CLIP" --inception "$INCEPTION" "$@"
