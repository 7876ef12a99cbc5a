#!/usr/bin/env bash
# FSD50K from nothing to DATA_DIR/FSD50K/<fname>.wav and collection_{dev,eval}.csv. Stopped at any moment, it goes on
# where it was when run again. Further arguments go to the download.
set -euo pipefail
DATA_DIR="${DATA_DIR:-data}"

cd "$(dirname "$0")/.."
source scripts/setup.sh

python download/download_fsd50k.py --data_dir "$DATA_DIR" "$@"
python download/check_dataset.py --data_dir "$DATA_DIR" --dataset_name FSD50K
