#!/usr/bin/env bash
# From nothing to the embedded model, OUTPUT_DIR, by the code that trains at full size: a small VAE, CLAP and
# text-to-image UNet stand for Stable Diffusion and CLAP, the judge measures; then stage one, stage two, and the
# baseline that hears the mixture as a whole. Call it again after an interruption: it goes on where it was.
# Edit the variables, or set some for a single run: VAE_SCENES=320 UNET_STEPS=60 WORK_DIR=trial bash soundscapes/build_tiny.sh
set -euo pipefail
cd "$(dirname "$0")/.."

OUTPUT_DIR="${OUTPUT_DIR:-asset/macs-tiny}"        # receives the finished model; an earlier one is replaced
WORK_DIR="${WORK_DIR:-checkpoints/tiny}"           # all that is made on the way; evaluate_tiny.py reads it
SEED="${SEED:-0}"
RECORDINGS="${RECORDINGS:-}"                       # real sounds, as prepare_recordings.py collects them; "": recipes alone
NUM_WORKERS="${NUM_WORKERS:-$(($(nproc) > 1 ? $(nproc) - 1 : 1))}"  # processes that synthesise, paint and read
MIXED_PRECISION="${MIXED_PRECISION:-}"             # bf16 or no; if not given: bf16 on GPUs, and CPUs that have it

# Budgets: scenes that are made on the way and met once (VAE, CLAP, judge, decoder) ...
VAE_SCENES="${VAE_SCENES:-20000}"
VAE_BATCH_SIZE="${VAE_BATCH_SIZE:-4}"
CLAP_SCENES="${CLAP_SCENES:-40000}"
CLAP_BATCH_SIZE="${CLAP_BATCH_SIZE:-32}"
UNET_SCENES="${UNET_SCENES:-7000}"                 # different ones, met UNET_STEPS x UNET_BATCH_SIZE times in all
UNET_STEPS="${UNET_STEPS:-12000}"
UNET_BATCH_SIZE="${UNET_BATCH_SIZE:-16}"
JUDGE_SCENES="${JUDGE_SCENES:-20000}"
DECODER_SCENES="${DECODER_SCENES:-8000}"
# ... and what is written to WORK_DIR/data and read in every epoch: clips of one or two sources for stage one, as those of
# FSD50K, and scenes of one to three for stage two (0.3 MB each)
CLIPS="${CLIPS:-8000}"
SEPARATOR_EPOCHS="${SEPARATOR_EPOCHS:-4}"
SEPARATOR_DECORRELATION="${SEPARATOR_DECORRELATION:-5}"  # without it the signals are near copies of the mixture
SEPARATOR_LR="${SEPARATOR_LR:-1e-3}"
SEPARATOR_BATCH_SIZE="${SEPARATOR_BATCH_SIZE:-4}"
SEPARATED_SCENES="${SEPARATED_SCENES:-12000}"      # met once, by CLAP, which learns what this separator makes of them
PROJECTION_SCENES="${PROJECTION_SCENES:-5000}"     # with RECORDINGS: whose features CLAP's projection learns from
SCENES="${SCENES:-28000}"
GENERATOR_EPOCHS="${GENERATOR_EPOCHS:-4}"          # and ten more, below; the baseline gets the same budget
GENERATOR_LR="${GENERATOR_LR:-1e-3}"
GENERATOR_BATCH_SIZE="${GENERATOR_BATCH_SIZE:-32}"

if [ $# -gt 0 ]; then echo "build_tiny.sh takes variables, no arguments, but got: $*" >&2; exit 2; fi
source scripts/setup.sh
source scripts/steps.sh
bf16=(); if [ "$MIXED_PRECISION" = bf16 ]; then bf16=(--bf16); fi
model="$WORK_DIR/model" data="$WORK_DIR/data" separator="$WORK_DIR/separator/separator" identity="$WORK_DIR/identity"
real=(); if [ -n "$RECORDINGS" ]; then real=(--recordings "$RECORDINGS"); fi

# What stands for Stable Diffusion and CLAP; each trainer puts its part into the folder of the model
tiny=(--model_dir "$model" --output_dir "$WORK_DIR" --seed "$SEED" --num_workers "$NUM_WORKERS" "${bf16[@]}")
step model python soundscapes/make_tiny.py --output_dir "$model" --seed "$SEED"
step vae python soundscapes/train_vae.py --scenes "$VAE_SCENES" --batch_size "$VAE_BATCH_SIZE" "${tiny[@]}"
step clap python soundscapes/train_clap.py --scenes "$CLAP_SCENES" --batch_size "$CLAP_BATCH_SIZE" \
    "${tiny[@]}" "${real[@]}"
step unet python soundscapes/train_unet.py --scenes "$UNET_SCENES" --steps "$UNET_STEPS" \
    --batch_size "$UNET_BATCH_SIZE" "${tiny[@]}"
# Crisp pictures, from the same latents: the decoder learns on, with the judge's features and a discriminator
step judge python soundscapes/train_judge.py --output_dir "$WORK_DIR/judge" --scenes "$JUDGE_SCENES" --seed "$SEED" \
    --num_workers "$NUM_WORKERS"
step decoder python soundscapes/train_decoder.py --scenes "$DECODER_SCENES" --judge "$WORK_DIR/judge" "${tiny[@]}"

# The two stages of the paper, and stage two once more without separation: of one signal, mixture consistency makes the
# mixture itself, whatever the weights, so a separator with M = 1 is the identity
scenes=(python soundscapes/make_soundscapes.py --data_dir "$data" --seed "$SEED" --num_workers "$NUM_WORKERS" --test 64
    "${real[@]}")
launch=(accelerate launch --num_processes 1 --num_machines 1 --mixed_precision "$MIXED_PRECISION" --dynamo_backend no)
both=(--data_dir "$data" --seed "$SEED" --num_workers "$NUM_WORKERS" --gradient_accumulation_steps 1)
stage_two=(train.py --sd_path "$model" --cache_dir "$WORK_DIR/cache" --num_crops 1 --dataset_name Soundscapes
    --batch_size "$GENERATOR_BATCH_SIZE" --snr_gamma 0.2 --captions "$data/Soundscapes/captions.csv" "${both[@]}")

# train_adapter NAME ARGUMENTS...: stage two, and ten epochs more that teach it to draw from the first signals alone
train_adapter() {
    local folder="$WORK_DIR/$1"
    step "$1_first" resuming "${folder}_first" "${launch[@]}" "${stage_two[@]}" "${@:2}" \
        --epochs "$GENERATOR_EPOCHS" --lr "$GENERATOR_LR" --labels "$data/Soundscapes/Soundscapes.csv"
    step "$1" resuming "$folder" "${launch[@]}" "${stage_two[@]}" "${@:2}" \
        --epochs 10 --lr 1e-3 --source_dropout 0.33 --adapter "${folder}_first/adapter"
}

clips=("${scenes[@]}" --dataset_name Clips --max_sources 2)
step stems "${clips[@]}" --train 0 --stems
step clips "${clips[@]}" --train "$CLIPS"
step separator resuming "$WORK_DIR/separator" "${launch[@]}" train_separator.py --dataset_name Clips \
    --clap "$model" --channels 16 --validation_set test --validation_clips 64 --epochs "$SEPARATOR_EPOCHS" \
    --lr "$SEPARATOR_LR" --batch_size "$SEPARATOR_BATCH_SIZE" --checkpointing_steps 100 \
    --decorrelation "$SEPARATOR_DECORRELATION" "${both[@]}"
step clap_separated python soundscapes/train_clap.py --separator "$separator" --scenes "$SEPARATED_SCENES" \
    --batch_size "$CLAP_BATCH_SIZE" --lr 3e-4 "${tiny[@]}" "${real[@]}"
if [ -n "$RECORDINGS" ]; then
    step projection python soundscapes/train_projection.py --separator "$separator" --scenes "$PROJECTION_SCENES" \
        "${tiny[@]}" "${real[@]}"
fi
step scenes "${scenes[@]}" --train "$SCENES"
train_adapter generator --separator "$separator"
step identity python -c "from macs import Separator; Separator(num_sources=1, channels=16).save_pretrained('$identity')"
train_adapter baseline --separator "$identity" --M 1

step assemble python soundscapes/make_tiny.py --adapter "$WORK_DIR/generator/adapter" --model_dir "$model" \
    --output_dir "$OUTPUT_DIR"
echo "Hear it: SD_PATH=$OUTPUT_DIR bash inference.sh"
echo "Measure it: python soundscapes/evaluate_tiny.py --model_dir $OUTPUT_DIR --work_dir $WORK_DIR ${real[*]}"
