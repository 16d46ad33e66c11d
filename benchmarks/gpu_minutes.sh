#!/usr/bin/env bash
# What a few minutes on a GPU are for, on a machine that has PyTorch and no network; in parts, those named or all:
#     bash benchmarks/gpu_minutes.sh FOLDER [tests] [table] [nano]
# FOLDER gets seven files of at most 15 MB: tests.log; gpu.json, gpu.md and table.log, a row at a time; nano.log, vae.pt
# and unet.pt, every 15 s. Whatever stops it, they are there as they were last written.
#
#     TESTS=180 TABLE=240 NANO=360      seconds that each part has
#     SITE=FILE.tar.xz                  the archive of benchmarks/gpu_packages.sh, unpacked where it is not yet
#     PEER=train_text_to_image_lora.py  diffusers' script, for the table
#     TEXTURES=FOLDER                   real textures for nano's autoencoder, as benchmarks/nano/collect.py packs them
#     TRY_ON_CPU=1                      all of it as small as can be, on a CPU: nothing of what it writes is a figure
#
# Files are named from the checkout's root. vae.pt and unet.pt go into outputs/nano, for the rest of train.sh.
set -uo pipefail
mkdir -p "$1" && out=$(cd "$1" && pwd) && shift || exit 1
cd "$(dirname "$0")/.." || exit 1
parts=" ${*:-tests table nano} " work=${TMPDIR:-/tmp}/texdiff-minutes
mkdir -p "$work/nano"
if [ -n "${SITE:-}" ]; then
    site=$work/site
    [ -e "$site/unpacked" ] || { mkdir -p "$site" && tar -C "$site" -xf "$SITE" && touch "$site/unpacked"; } || exit 1
    PYTHONPATH=$site:${PYTHONPATH:-}
fi
export PYTHONPATH=$PWD:${PYTHONPATH:-} HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 XDG_CACHE_HOME=$work/cache
trial=() vae=() unet=() workers=6
if [ -n "${TRY_ON_CPU:-}" ]; then
    export TEXDIFF_TEST_GPU_ON_CPU=1
    trial=(--try_on_cpu --batches 2) vae=(--synthetic 20 --batch 1) unet=(--samples 24 --batch 2) workers=1
fi
say() { echo "[$SECONDS s] $*"; }
limited() { timeout -s INT -k 15 "$@"; } # a table and tests that are told to stop still write what they have

say "$(python3 -c 'import torch; print(torch.__version__, *([torch.cuda.get_device_name()] if torch.cuda.is_available() else []))')"
if [[ $parts == *" table "* && ${#trial[@]} == 0 ]]; then
    python3 benchmarks/true_size.py "$work/sd15" >"$work/sd15.log" 2>&1 & # 4.3 GB, while the tests run
    base=$!
fi

if [[ $parts == *" tests "* ]]; then
    OMP_NUM_THREADS=2 limited "${TESTS:-180}" python3 -m pytest tests/gpu -v -p no:cacheprovider -n $workers -W default \
        --durations=25 -rA >"$out/tests.log" 2>&1
    say "tests: exit $?; $(grep -E '^(FAILED|ERROR)|passed|failed' "$out/tests.log" | cut -c1-300)"
fi

if [[ $parts == *" table "* ]]; then
    if [ -n "${base:-}" ]; then wait "$base"; fi
    [ -e "$out/gpu.json" ] || cp benchmarks/results/gpu.json "$out/" # rows of the same versions stay in the table
    seconds=${TABLE:-240}
    limited "$seconds" python3 -m benchmarks.gpu --seconds $((seconds - 20)) --base "$work/sd15" --work "$work/table" \
        --output "$out" --peer "${PEER:-train_text_to_image_lora.py}" "${trial[@]}" >"$out/table.log" 2>&1
    say "table: exit $?; $(cut -c1-300 "$out/table.log" | tail -40)"
fi

bring_back() { # under its name only once it is complete
    for name in vae.pt unet.pt; do
        if [ "$work/nano/$name" -nt "$out/$name" ]; then cp "$work/nano/$name" "$out/part" && mv "$out/part" "$out/$name"; fi
    done
}

if [[ $parts == *" nano "* ]]; then
    export NANO_OUT=$work/nano
    seconds=${NANO:-360} begun=$SECONDS
    (while sleep 5; do bring_back; done) &
    copying=$!
    {
        # Painted on all cores for the second training, while the first one runs.
        python3 -m benchmarks.nano.samples ${unet[1]:+--count "${unet[1]}"} &
        painting=$!
        python3 -m benchmarks.nano.train_vae --seconds $((seconds * 9 / 20)) --begin texdiff/assets/nano/vae \
            ${TEXTURES:+--pictures "$TEXTURES"} "${vae[@]}"
        wait "$painting"
        left=$((seconds - (SECONDS - begun) - 10))
        python3 -m benchmarks.nano.train_unet --seconds $((left > 20 ? left : 20)) \
            --begin texdiff/assets/nano "${unet[@]}"
    } >"$out/nano.log" 2>&1
    say "nano: exit $?; $(grep -E 'vae: |unet: |Error' "$out/nano.log" | cut -c1-200 | tail -4)"
    kill "$copying" && wait "$copying" 2>/dev/null
    bring_back
fi
