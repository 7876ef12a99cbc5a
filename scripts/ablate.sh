#!/usr/bin/env bash
# Ablations on the embedded world in one call: for each row a separator (stage one), an adapter (stage two), pictures and
# what they are worth; then one table and one figure, WORK_DIR/ablation.md, .csv, .json, .png.
# Call it again after an interruption: it goes on where it was. The budgets below are meant for an hour on two quiet CPU
# cores (reckoned from the speeds of the steps); they show what is large, no more.
# Edit the variables, or set some for a single run: ROWS="full M2" SCENES=100 WORK_DIR=trial bash scripts/ablate.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# full: M = 6 and all losses; M<number>: other numbers of signals; docs/training.md has the same switches for real data
ROWS="${ROWS:-full without_separation without_ranking without_contrastive M2 M4 M8}"
SD_PATH="${SD_PATH:-asset/macs-tiny}"          # gives all rows CLAP, VAE and UNet; separators and adapters are new
JUDGE="${JUDGE:-tests/judge}"                  # says what the pictures show
WORK_DIR="${WORK_DIR:-checkpoints/ablation}"   # all that is made on the way, and the results
SEED="${SEED:-0}"                              # of weights, data and noise, the same for all rows
NUM_WORKERS="${NUM_WORKERS:-$(($(nproc) > 1 ? $(nproc) - 1 : 1))}"
MIXED_PRECISION="${MIXED_PRECISION:-}"         # bf16 or no; if not given: bf16 on GPUs, and CPUs that have it

# Budgets. Stage one: clips of one and two sources, the same for all rows, as its batches are
CLIPS="${CLIPS:-120}"
SEPARATOR_EPOCHS="${SEPARATOR_EPOCHS:-3}"
SEPARATOR_BATCH_SIZE="${SEPARATOR_BATCH_SIZE:-4}"
SEPARATOR_LR="${SEPARATOR_LR:-1e-3}"
# Stage two: scenes of one to three sources; their features are computed once for each separator, the images' for all
SCENES="${SCENES:-320}"
GENERATOR_EPOCHS="${GENERATOR_EPOCHS:-10}"
GENERATOR_BATCH_SIZE="${GENERATOR_BATCH_SIZE:-16}"
GENERATOR_LR="${GENERATOR_LR:-1e-3}"
# Measures: held-out scenes of each number of sources, and steps of the sampler
TEST_SCENES="${TEST_SCENES:-30}"
STEPS="${STEPS:-20}"

if [ $# -gt 0 ]; then echo "ablate.sh takes variables, no arguments, but got: $*" >&2; exit 2; fi
for row in $ROWS; do
    if ! [[ $row =~ ^(full|without_(separation|ranking|contrastive)|M[1-9][0-9]*)$ ]]; then
        echo "ROWS: expected full, without_separation, without_ranking, without_contrastive or M<number>, but got $row" >&2
        exit 2
    fi
done
source scripts/setup.sh
source scripts/steps.sh

data="$WORK_DIR/data"
scenes=(python soundscapes/make_soundscapes.py --data_dir "$data" --seed "$SEED" --num_workers "$NUM_WORKERS" --test 0)
both=(--data_dir "$data" --seed "$SEED" --num_workers "$NUM_WORKERS" --mixed_precision "$MIXED_PRECISION"
    --gradient_accumulation_steps 1)
stage_one=(python train_separator.py --dataset_name Clips --clap "$SD_PATH" --channels 16 --validation_clips 0
    --epochs "$SEPARATOR_EPOCHS" --batch_size "$SEPARATOR_BATCH_SIZE" --lr "$SEPARATOR_LR" "${both[@]}")
stage_two=(python train.py --dataset_name Soundscapes --sd_path "$SD_PATH" --cache_dir "$WORK_DIR/cache" --num_crops 1
    --captions "$data/Soundscapes/captions.csv" --labels "$data/Soundscapes/Soundscapes.csv" --snr_gamma 0.2
    --validation_steps 0 --epochs "$GENERATOR_EPOCHS" --batch_size "$GENERATOR_BATCH_SIZE" --lr "$GENERATOR_LR" "${both[@]}")

step clips "${scenes[@]}" --dataset_name Clips --max_sources 2 --train "$CLIPS"
step scenes "${scenes[@]}" --train "$SCENES"
for row in $ROWS; do
    separated=(--separator "$WORK_DIR/$row/stage_one")
    case $row in
        full) switch=() ;;
        without_ranking) switch=(--losses mixit contrastive) ;;
        without_contrastive) switch=(--losses mixit ranking) ;;
        without_separation) separated=(--M 1) ;;  # the adapter hears the mixture's one embedding; nothing to train before
        M*) switch=(--M "${row#M}") ;;
    esac
    if [ "$row" != without_separation ]; then
        step "$row.stage_one" resuming "$WORK_DIR/$row/stage_one" "${stage_one[@]}" "${switch[@]}"
    fi
    step "$row.stage_two" resuming "$WORK_DIR/$row/stage_two" "${stage_two[@]}" "${separated[@]}"
done
# shellcheck disable=SC2086  # a word for each row
python scripts/ablation.py --rows $ROWS --work_dir "$WORK_DIR" --sd_path "$SD_PATH" --judge "$JUDGE" --seed "$SEED" \
    --scenes "$TEST_SCENES" --steps "$STEPS" --num_workers "$NUM_WORKERS" --mixed_precision "$MIXED_PRECISION"
