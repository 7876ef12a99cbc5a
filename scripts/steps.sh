# Sourced by scripts that do many things one after another, after WORK_DIR and MIXED_PRECISION are set, and setup.sh.

# Half precision, if not given: bf16 on GPUs, and on CPUs that have it
if [ -z "$MIXED_PRECISION" ]; then
    MIXED_PRECISION=no
    if grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo || python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        MIXED_PRECISION=bf16
    fi
fi
mkdir -p "$WORK_DIR/done"

# step NAME COMMAND...: runs it unless it is done, and says how long it took
step() {
    local name="$1" done="$WORK_DIR/done/$1" start=$SECONDS
    shift
    if [ -e "$done" ] && [ "$(cat "$done")" != "$*" ]; then
        echo "$WORK_DIR holds the step '$name' made by another command:" >&2
        diff -U0 "$done" <(echo "$*") >&2 || true
        echo "Set the variables as they were, or another WORK_DIR." >&2
        exit 1
    fi
    if [ -e "$done" ]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name: $*"
    "$@"
    echo "$*" >"$done.new"
    mv "$done.new" "$done"
    echo "== $name: $((SECONDS - start)) s" | tee -a "$WORK_DIR/times.txt"
}

# resuming FOLDER COMMAND...: goes on from the last checkpoint there, if there is one
resuming() {
    local folder="$1"
    shift
    if compgen -G "$folder/checkpoints/step-*[0-9]" >/dev/null; then set -- "$@" --resume latest; fi
    "$@" --output_dir "$folder"
}
