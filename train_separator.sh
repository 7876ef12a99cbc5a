#!/usr/bin/env bash
# Stage one: trains the separator. Edit the variables, or set one for a single run: DATA_DIR=/data bash train_separator.sh
# Further arguments go to train_separator.py: bash train_separator.sh --resume latest
set -euo pipefail
cd "$(dirname "$0")"

DATA_DIR="${DATA_DIR:-data}"                  # holds DATASET_NAME/...
DATASET_NAME="${DATASET_NAME:-FSD50K}"        # FSD50K; to fine-tune: LLP, AudioSet, Landscape or your own
OUTPUT_DIR="${OUTPUT_DIR:-output/separator}"
PT_PATH="${PT_PATH:-}"                        # folder with the authors' separator_FSD50K_full.pt: CLAP is taken from it
CLAP="${CLAP:-${PT_PATH:+$PT_PATH/separator_FSD50K_full.pt}}"  # or a folder, hub id or saved pipeline
CLAP="${CLAP:-laion/clap-htsat-unfused}"
FINETUNE="${FINETUNE:-}"                      # separator to start from: separator_FSD50K_full.pt or a folder
M="${M:-}"                                    # signals of a new separator; empty: 6
LOSSES="${LOSSES:-mixit contrastive ranking}" # for ablations: any of the three
EPOCHS="${EPOCHS:-20}"
BATCH_SIZE="${BATCH_SIZE:-8}"                 # clips per process and step
MIXED_PRECISION="${MIXED_PRECISION:-no}"      # fp16 or bf16 on a GPU
NUM_PROCESSES="${NUM_PROCESSES:-1}"           # one for each GPU

source scripts/setup.sh
read -ra losses <<<"$LOSSES"
launch=(--num_processes "$NUM_PROCESSES" --num_machines 1 --mixed_precision "$MIXED_PRECISION" --dynamo_backend no)
# a free port, so that two trainings can share a machine
if [ "$NUM_PROCESSES" -gt 1 ]; then launch+=(--multi_gpu --main_process_port 0); fi
accelerate launch "${launch[@]}" train_separator.py --data_dir "$DATA_DIR" --dataset_name "$DATASET_NAME" \
    --output_dir "$OUTPUT_DIR" --clap "$CLAP" ${FINETUNE:+--finetune "$FINETUNE"} ${M:+--M "$M"} \
    --losses "${losses[@]}" --epochs "$EPOCHS" --batch_size "$BATCH_SIZE" "$@"
