#!/usr/bin/env bash
# LLP-multi from nothing to DATA_DIR/LLP/{train,eval,test}. Stopped at any moment, it goes on where it was when run again.
# Further arguments go to the download: bash download/prepare_llp.sh --limit 20 --cookies cookies.txt
set -euo pipefail
DATA_DIR="${DATA_DIR:-data}"
ASSET_DIR="${ASSET_DIR:-asset}"         # lists, labels, frame files
MIN_LABELS="${MIN_LABELS:-2}"           # 2: LLP-multi, the paper's; 1: all of LLP
CHOOSE="${CHOOSE:-random}"              # among the best seconds: random, all, clip
NUM_FRAMES="${NUM_FRAMES:-1}"           # of each video
CLIP_MODEL="${CLIP_MODEL:-openai/clip-vit-base-patch32}"
SEED="${SEED:-0}"

cd "$(dirname "$0")/.."
REQUIREMENTS=download/requirements.txt
source scripts/setup.sh

[ -f "$ASSET_DIR/LLP.csv" ] && [ -f "$ASSET_DIR/LLP_train.json" ] || python download/download_assets.py --output_dir "$ASSET_DIR"
# 3: some clips failed this time; what is there can be prepared all the same
python download/download_llp.py --data_dir "$DATA_DIR" --csv "$ASSET_DIR/LLP.csv" --min_labels "$MIN_LABELS" "$@" || [ $? -eq 3 ]
for split in train eval test; do
    python download/extract_frames.py --data_dir "$DATA_DIR" --dataset_name LLP --split "$split" \
        --frames_json "$ASSET_DIR/LLP_$split.json" --labels_csv "$ASSET_DIR/LLP.csv" \
        --choose "$CHOOSE" --num_frames "$NUM_FRAMES" --clip_model "$CLIP_MODEL" --seed "$SEED" || [ $? -eq 3 ]
done
python download/check_dataset.py --data_dir "$DATA_DIR" --dataset_name LLP --labels_csv "$ASSET_DIR/LLP.csv"
