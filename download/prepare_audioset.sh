#!/usr/bin/env bash
# AudioSet-Eval from nothing to DATA_DIR/AudioSet/{train,test}. Stopped at any moment, it goes on where it was when run
# again. Further arguments go to the download: bash download/prepare_audioset.sh --limit 20 --cookies cookies.txt
set -euo pipefail
DATA_DIR="${DATA_DIR:-data}"
ASSET_DIR="${ASSET_DIR:-asset}"         # lists, labels, frame files
CHOOSE="${CHOOSE:-random}"              # among the best seconds: random, all, clip
NUM_FRAMES="${NUM_FRAMES:-1}"           # of each video
TEST_FRACTION="${TEST_FRACTION:-0.1}"   # of the videos, by a hash of the id
CLIP_MODEL="${CLIP_MODEL:-openai/clip-vit-base-patch32}"
SEED="${SEED:-0}"

cd "$(dirname "$0")/.."
REQUIREMENTS=download/requirements.txt
source scripts/setup.sh

frames="$ASSET_DIR/audioset_eval_frames.json"
[ -f "$ASSET_DIR/eval_segments.csv" ] && [ -f "$ASSET_DIR/AudioSet.csv" ] || python download/download_assets.py --output_dir "$ASSET_DIR"
[ -f "$frames" ] || python download/preprocess_audioset.py --events "$ASSET_DIR/audioset_eval_strong.tsv" --output "$frames"
# 3: some clips failed this time; what is there can be prepared all the same
python download/download_audioset.py --data_dir "$DATA_DIR" --csv "$ASSET_DIR/eval_segments.csv" --frames_json "$frames" "$@" || [ $? -eq 3 ]
python download/extract_frames.py --data_dir "$DATA_DIR" --dataset_name AudioSet --test_fraction "$TEST_FRACTION" \
    --frames_json "$frames" --labels_csv "$ASSET_DIR/AudioSet.csv" \
    --choose "$CHOOSE" --num_frames "$NUM_FRAMES" --clip_model "$CLIP_MODEL" --seed "$SEED" || [ $? -eq 3 ]
python download/check_dataset.py --data_dir "$DATA_DIR" --dataset_name AudioSet --labels_csv "$ASSET_DIR/AudioSet.csv"
