"""A pipeline small enough to sample an image in a second, and LoRA factors for it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Factors = Callable[[float], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline with random weights, of images of 64 x 64 px."""
    from texdiff.models.nano import build

    folder = tmp_path_factory.mktemp("base")
    build(folder)
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"sample_size": 8}), "utf-8")
    return folder


@pytest.fixture(scope="session")
def loaded(base: Path) -> Any:
    from texdiff.inference.sampler import load_pipeline

    torch.set_num_threads(1)  # layers this small only lose by sharing them out, above all beside other processes
    return load_pipeline(str(base))


@pytest.fixture
def pipeline(loaded: Any) -> Any:
    """The base's pipeline, untouched by other tests."""
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def factors(base: Path) -> Factors:
    """Rank-4 factors A and B * `strength` for one attention layer."""
    from safetensors import safe_open

    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    with safe_open(base / "unet/diffusion_pytorch_model.safetensors", framework="pt") as weights:
        out, into = weights.get_slice(layer).get_shape()

    def make(strength: float) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        a = torch.randn(4, into, generator=generator)
        return {"A": a, "B": torch.randn(out, 4, generator=generator) * strength}

    return make
