#!/usr/bin/env bash
# One archive of everything that texdiff and its tests need beside PyTorch, for a GPU machine without a network:
#     bash benchmarks/gpu_packages.sh FILE.tar.xz [PYTHON=3.12] [CUDA=130]
# There:  mkdir SITE && tar -C SITE -xf FILE.tar.xz && export PYTHONPATH=SITE:CHECKOUT
# 32 MB. Versions are those of constraints.txt; of bitsandbytes, whose wheel holds a library for every CUDA there is, only
# the one for CUDA (13.0 is 130) comes along.
set -euo pipefail
archive=$(realpath -m "$1") python=${2:-3.12} cuda=${3:-130}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
platforms=()
for glibc in 2_34 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
get() {
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "$python" --implementation cp \
        "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$work/wheels" "$@"
}
names=(accelerate annotated-types datasets diffusers dill docstring_parser embreex httpcore2 httpx2 huggingface_hub
    hypothesis importlib_metadata jsonargparse lazy-importer mapbox_earcut multiprocess peft pillow plyfile prodigyopt
    pycollada schedulefree tokenizers transformers trimesh
    truststore typeshed_client xatlas)
for name in "${names[@]}"; do
    get "$(grep -iE "^${name}==" "$here/constraints.txt")"
done
get 'bitsandbytes>=0.50'
mkdir "$work/site"
for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
find "$work/site/bitsandbytes" -name 'libbitsandbytes_*.so' ! -name '*_cpu.so' ! -name "*_cuda$cuda.so" -delete
mkdir -p "$(dirname "$archive")"
tar -C "$work/site" -c . | xz -6 -T0 >"$archive"
du -h "$archive"
