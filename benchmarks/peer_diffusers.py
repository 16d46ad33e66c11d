"""Runs a training script of the diffusers repository where there is no torchvision.

    python -m benchmarks.peer_diffusers TRAIN_TEXT_TO_IMAGE_LORA.PY [ARGUMENT ...]

The script runs as it is; the transforms that it takes from torchvision are stood in for.
"""

import runpy
import sys

import datasets  # noqa: F401  it and diffusers look for torchvision as they are imported
import diffusers  # noqa: F401
from transformers.utils.import_utils import is_torchvision_available

from benchmarks import torchvision_stand_in

if not is_torchvision_available():  # the answer is kept, so that nobody looks for more of it than there is
    torchvision_stand_in.install()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
