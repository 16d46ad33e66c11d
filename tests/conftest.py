"""A dataset made once, and a way to run texdiff's programs as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from warm_python import WarmPython, own_program

# In support/, as are other helpers.
pytest_plugins = ["four_squares", "in_blender", "inpainting", "nano_xl", "pipelines", "small_meshes", "small_run"]

ROOT = Path(__file__).parent.parent
REAL_MESHES = ROOT.parent / "shared" / "realdata" / "furniture"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Encoded textures and the embedded base go to a folder of this test run, not to the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def real_meshes() -> Path:
    """A folder of real meshes, where there is one."""
    if not REAL_MESHES.is_dir():
        pytest.skip(f"no real meshes at {REAL_MESHES}")
    return REAL_MESHES


@pytest.fixture(scope="session")
def run_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """`run_program(program, *arguments, **environment)` runs it in a process of its own (texdiff's: warm_python)."""
    warm = WarmPython(tmp_path_factory.mktemp("warm"))

    def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words, environment = [*map(str, command)], os.environ | environment
        if own := own_program(words):
            return warm.run(own, environment)
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)

    yield run
    warm.end()


@pytest.fixture(scope="session")
def train(run_program: Run) -> Run:
    """`train(*flags)` runs train_texture.py on the embedded base, without pictures and trackers."""

    def run(*flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
        quick = ["--data.resolution", "64", "--validation.num_images", "0", "--run.report_to", "none"]
        one_thread = {"OMP_NUM_THREADS": "1"}  # so small, two would spend their time waiting for each other
        return run_program(sys.executable, "train_texture.py", *quick, *flags, **one_thread | environment)

    return run


def write_dataset(folder: Path, coverages: list[float], held_out: int = 0, size: int = 64, **row: object) -> Path:
    """A dataset as `texdiff prepare` writes it: smooth colours, and a band of each coverage (0-1) as its mask."""
    rng = np.random.default_rng(0)
    for split, shares in (("train", coverages[: len(coverages) - held_out]), ("validation", coverages[-held_out:])):
        if split == "validation" and not held_out:
            continue
        lines = []
        for number, share in enumerate(shares):
            colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            texture = np.asarray(Image.fromarray(colours).resize((size, size), Image.Resampling.BICUBIC)).copy()
            mask = np.zeros((size, size), bool)
            mask[: max(1, round(share * size))] = True
            texture[~mask] = rng.integers(0, 256, 3)
            for kind, picture in (("textures", texture), ("masks", mask.astype(np.uint8) * 255)):
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / split / kind / f"{number}.png")
            lines.append(
                {
                    "file_name": f"textures/{number}.png",
                    "mask_file_name": f"masks/{number}.png",
                    "text": f"colours number {number}",
                    "asset_id": f"{split}-{number}",
                    "coverage": float(mask.mean()),
                    **row,
                }
            )
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """`make_dataset(folder, coverages, held_out=0, size=64)` writes a small dataset."""
    return write_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six textures of very different coverage to train on, and two held out."""
    return write_dataset(tmp_path_factory.mktemp("dataset"), [0.05, 1.0, 0.3, 0.9, 0.15, 0.6, 0.5, 0.2], held_out=2)
