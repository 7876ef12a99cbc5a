#!/usr/bin/env bash
# Landscape from nothing to DATA_DIR/Landscape/{train,test}. Stopped at any moment, it goes on where it was when run
# again. Further arguments go to the download: bash download/prepare_landscape.sh --from_folder my_copy
set -euo pipefail
DATA_DIR="${DATA_DIR:-data}"
ASSET_DIR="${ASSET_DIR:-asset}"         # lists, labels, frame files
CHOOSE="${CHOOSE:-random}"              # among all seconds: random, all, clip
NUM_FRAMES="${NUM_FRAMES:-1}"           # of each video
TEST_FRACTION="${TEST_FRACTION:-0.1}"   # of the videos, by a hash of the id
CLIP_MODEL="${CLIP_MODEL:-openai/clip-vit-base-patch32}"
SEED="${SEED:-0}"

cd "$(dirname "$0")/.."
REQUIREMENTS=download/requirements.txt
source scripts/setup.sh

[ -f "$ASSET_DIR/Landscape.csv" ] || python download/download_assets.py --output_dir "$ASSET_DIR"
# 3: some clips failed this time; what is there can be prepared all the same
python download/download_landscape.py --data_dir "$DATA_DIR" --csv "$ASSET_DIR/Landscape.csv" "$@" || [ $? -eq 3 ]
python download/extract_frames.py --data_dir "$DATA_DIR" --dataset_name Landscape --test_fraction "$TEST_FRACTION" \
    --labels_csv "$ASSET_DIR/Landscape.csv" \
    --choose "$CHOOSE" --num_frames "$NUM_FRAMES" --clip_model "$CLIP_MODEL" --seed "$SEED" || [ $? -eq 3 ]
python download/check_dataset.py --data_dir "$DATA_DIR" --dataset_name Landscape --labels_csv "$ASSET_DIR/Landscape.csv"
