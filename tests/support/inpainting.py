"""Tiny inpainting pipelines with random weights: Stable Diffusion's, and Stable Diffusion XL's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch


def as_inpainting(source: Path, folder: Path, seed: int = 0) -> Path:
    """Write `source` again with a U-Net of 9 channels, as its inpainting pipeline."""
    import diffusers
    from diffusers import DiffusionPipeline, UNet2DConditionModel

    kind = json.loads((source / "model_index.json").read_text("utf-8"))["_class_name"]
    settings = UNet2DConditionModel.load_config(source, subfolder="unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config({**settings, "in_channels": 9})
    inpainting: Any = getattr(diffusers, kind.replace("Pipeline", "InpaintPipeline"))
    none = {} if "XL" in kind else {"safety_checker": None, "requires_safety_checker": False}
    parts = DiffusionPipeline.from_pretrained(source, **none).components
    inpainting(**parts | none | {"unet": unet}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_inpainting(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, of images of 64 x 64 px."""
    return as_inpainting(base, tmp_path_factory.mktemp("inpainting"))


@pytest.fixture(scope="session")
def base_inpainting_xl(base_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of Stable Diffusion XL."""
    return as_inpainting(base_xl, tmp_path_factory.mktemp("inpainting-xl"))
