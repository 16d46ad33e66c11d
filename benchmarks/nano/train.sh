#!/usr/bin/env bash
# Train nano from nothing, or go on where it was stopped:  bash benchmarks/nano/train.sh [FOLDER OF REAL TEXTURES ...]
set -euo pipefail
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    launch=(python -m)
else
    export OMP_WAIT_POLICY=passive
    launch=(torchrun --nproc_per_node "$(nproc)" -m)
fi
"${launch[@]}" benchmarks.nano.train_vae --threads 1 --steps "${VAE_STEPS:-9500}" --furniture "$@"
"${launch[@]}" benchmarks.nano.train_unet --threads 1 --steps "${UNET_STEPS:-20000}"
python -m benchmarks.nano.export
test -e outputs/nano/classifier.pt || python -m benchmarks.nano.classifier
python -m benchmarks.nano.evaluate_prompts
