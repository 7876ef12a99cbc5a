#!/usr/bin/env bash
# Stage two: trains the generator. Edit the variables, or set one for a single run: DATA_DIR=/data bash train.sh
# Further arguments go to train.py: bash train.sh --resume latest
# As committed it teaches the embedded model a sound that it does not know, a cuckoo, in a minute or two on a CPU.
set -euo pipefail
cd "$(dirname "$0")"

DATA_DIR="${DATA_DIR:-data}"                      # holds DATASET_NAME/DATA_SET/{audio,image}
DATASET_NAME="${DATASET_NAME:-Cuckoo}"            # LLP, AudioSet, Landscape or your own; Cuckoo is made here
DATA_SET="${DATA_SET:-train}"
OUTPUT_DIR="${OUTPUT_DIR:-output/generator}"      # the result is OUTPUT_DIR/adapter: PT_PATH of inference.sh
CACHE_DIR="${CACHE_DIR-cache}"                    # what the frozen models compute, once; empty: in every step
SD_PATH="${SD_PATH:-asset/macs-tiny}"             # the embedded model, or CompVis/stable-diffusion-v1-4
PT_PATH="${PT_PATH:-}"                            # with Stable Diffusion: where separator_FSD50K_full.pt is (alxzzz/MACS)
SEPARATOR="${SEPARATOR:-}"                        # one you trained (output/separator), in place of theirs
ADAPTER="${ADAPTER:-}"                            # goes on from this adapter, as Cuckoo does from the embedded one
M="${M:-}"                                        # 1: without separation; empty: the separator's
CAPTIONS="${CAPTIONS:-}"                          # csv of captions or labels to learn from, in place of the noise
LABELS="${LABELS:-}"                              # label file from which the projector learns first; needs CACHE_DIR
TRAINABLE="${TRAINABLE:-adapter}"                 # or unet: the whole UNet too
EPOCHS="${EPOCHS:-15}"
LR="${LR:-}"                                      # empty: the paper's 1e-4, for Cuckoo 1e-3
BATCH_SIZE="${BATCH_SIZE:-16}"                    # frames per process at a time; the paper's 2 x 8 needs less memory
GRADIENT_ACCUMULATION_STEPS="${GRADIENT_ACCUMULATION_STEPS:-1}"  # x BATCH_SIZE x NUM_PROCESSES = 16 in the paper
SCHEDULER="${SCHEDULER:-cosine}"
MIXED_PRECISION="${MIXED_PRECISION:-no}"          # fp16 or bf16 on a GPU
NUM_PROCESSES="${NUM_PROCESSES:-1}"               # one for each GPU
NUM_WORKERS="${NUM_WORKERS:-2}"                   # processes that read files, for each of them
VALIDATION_STEPS="${VALIDATION_STEPS:-30}"        # optimizer steps between the pictures in OUTPUT_DIR/figures
ACCELERATE_CONFIG="${ACCELERATE_CONFIG:-}"        # a file of `accelerate config` (FSDP, DeepSpeed, several machines)

source scripts/setup.sh
if [ "$DATASET_NAME" = Cuckoo ]; then
    if [ ! -e "$DATA_DIR/Cuckoo/$DATA_SET" ]; then
        python soundscapes/make_soundscapes.py --data_dir "$DATA_DIR" --dataset_name Cuckoo --taught cuckoo --train 64 --test 8
    fi
    if [ "$SD_PATH" = asset/macs-tiny ] && [ -z "$SEPARATOR$M$LABELS" ]; then  # else a new adapter
        ADAPTER="${ADAPTER:-asset/macs-tiny/adapter}" LR="${LR:-1e-3}"
    fi
fi
LR="${LR:-1e-4}"
if [ -n "$ACCELERATE_CONFIG" ]; then
    launch=(--config_file "$ACCELERATE_CONFIG")
else
    launch=(--num_processes "$NUM_PROCESSES" --num_machines 1 --mixed_precision "$MIXED_PRECISION" --dynamo_backend no)
    # a free port, so that two trainings can share a machine
    if [ "$NUM_PROCESSES" -gt 1 ]; then launch+=(--multi_gpu --main_process_port 0); fi
fi
accelerate launch "${launch[@]}" train.py --sd_path "$SD_PATH" --pt_path "$PT_PATH" --separator "$SEPARATOR" ${M:+--M "$M"} \
    --adapter "$ADAPTER" \
    --data_dir "$DATA_DIR" --dataset_name "$DATASET_NAME" --data_set "$DATA_SET" --output_dir "$OUTPUT_DIR" \
    --cache_dir "$CACHE_DIR" --captions "$CAPTIONS" --labels "$LABELS" --trainable "$TRAINABLE" \
    --epochs "$EPOCHS" --lr "$LR" --batch_size "$BATCH_SIZE" \
    --gradient_accumulation_steps "$GRADIENT_ACCUMULATION_STEPS" --scheduler "$SCHEDULER" \
    --num_workers "$NUM_WORKERS" --validation_steps "$VALIDATION_STEPS" "$@"
