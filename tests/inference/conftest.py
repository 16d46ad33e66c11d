"""A pipeline small enough to draw a picture in a second, LoRA factors for it, and meshes made by hand."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

Factors = Callable[[float], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline with random weights, drawing 64 x 64 px."""
    from texdiff.models.nano import build

    folder = tmp_path_factory.mktemp("base")
    build(folder)
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"sample_size": 8}), "utf-8")
    return folder


@pytest.fixture(scope="session")
def loaded(base: Path) -> Any:
    from texdiff.inference.generate import load_pipeline

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


@pytest.fixture
def quadrants() -> np.ndarray:
    """uint8 [32, 32, 3]: red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    picture[:16, :16], picture[:16, 16:] = (255, 0, 0), (0, 255, 0)
    picture[16:, :16], picture[16:, 16:] = (0, 0, 255), (255, 255, 255)
    return picture


@pytest.fixture
def four_squares_obj(tmp_path: Path) -> Path:
    """One OBJ of four squares in a row along x; the k-th maps onto the middle of one quadrant of `old.png`.

    Square 0: low u, low v. 1: high u, low v. 2: low u, high v. 3: high u, high v. V up, as OBJ has it.
    """
    lines = ["mtllib squares.mtl", "usemtl squares"]
    for k in range(4):
        lines += [f"v {k + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        u, v = 0.5 * (k % 2) + 0.15, 0.5 * (k // 2) + 0.15
        lines += [f"vt {u + 0.2 * x} {v + 0.2 * y}" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        lines.append("f " + " ".join(f"{4 * k + c}/{4 * k + c}" for c in (1, 2, 3, 4)))
    folder = tmp_path / "squares"
    folder.mkdir()
    (folder / "squares.obj").write_text("\n".join(lines) + "\n")
    (folder / "squares.mtl").write_text("newmtl squares\nKd 0 0 0\nmap_Kd old.png\n")
    Image.new("RGB", (8, 8), (90, 90, 90)).save(folder / "old.png")
    return folder / "squares.obj"
