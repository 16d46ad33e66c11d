#!/usr/bin/env bash
# Train nano from nothing, or go on where it was stopped:  bash benchmarks/nano/train.sh [FOLDER OF REAL TEXTURES ...]
# Times for a CPU; on a GPU:  VAE_SECONDS=300 UNET_SECONDS=240 bash benchmarks/nano/train.sh ...
set -euo pipefail
out=${NANO_OUT:-outputs/nano}
python -m benchmarks.nano.samples & # paints, while the autoencoder trains
python -m benchmarks.nano.train_vae --seconds "${VAE_SECONDS:-9000}" --begin texdiff/assets/nano/vae --pictures "$@"
wait
python -m benchmarks.nano.train_unet --seconds "${UNET_SECONDS:-9000}" --begin texdiff/assets/nano
python -m benchmarks.nano.export
test -e "$out/classifier.pt" || python -m benchmarks.nano.classifier
python -m benchmarks.nano.evaluate_prompts
python -m benchmarks.nano.evaluate_layout
