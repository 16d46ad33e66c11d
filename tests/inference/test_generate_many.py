"""Several prompts and seeds at once, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from texdiff import cli
from texdiff.errors import InputError
from texdiff.inference.generate import generate, numbered_files
from texdiff.inference.sampler import sample, sample_batch

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_each_prompt_with_each_seed_in_batches(
    base: Path, loaded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "--model", str(base), "--output", str(tmp_path / "x.png"), "--num_inference_steps", "2"]
    arguments += ["--prompt", "a crate", "--prompt", "red bricks", "--seed", "3", "5", "--batch_size", "3"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr()
    files = [tmp_path / f"x-{number:02d}.png" for number in range(4)]
    assert sorted(tmp_path.iterdir()) == files
    jobs = [("a crate", 3), ("a crate", 5), ("red bricks", 3), ("red bricks", 5)]
    assert said.out.splitlines() == [f"wrote {file} (seed {s}: {p})" for file, (p, s) in zip(files, jobs, strict=True)]
    assert "1-3 of 4" in said.err
    assert "4-4 of 4" in said.err
    for file, (prompt, seed) in zip(files, jobs, strict=True):
        alone = sample(loaded, prompt, seed, num_inference_steps=2).astype(int)
        assert np.abs(np.asarray(Image.open(file)) - alone).max() <= 1  # a batch rounds otherwise
    shown = [Image.open(file).tobytes() for file in files]
    assert len(set(shown)) == 4


def test_numbers_sort_like_names(tmp_path: Path) -> None:
    assert numbered_files(tmp_path / "a.glb", 1) == [tmp_path / "a.glb"]
    names = [file.name for file in numbered_files(tmp_path / "a.glb", 101)]
    assert names[0] == "a-000.glb"
    assert names == sorted(names)
    assert len(set(names)) == 101


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"strength": 0.5}, "nothing to start from"),
        ({"strength": 0.0, "mesh": True}, "above 0"),
        ({"strength": 1.5, "mesh": True}, "at most 1"),
        ({"strength": 0.1, "mesh": True, "num_inference_steps": 5}, "leaves none"),
        ({"init_image": Path("none.png")}, "--init_image none.png"),
        ({"batch_size": 0}, "--batch_size"),
        ({"prompt": []}, "at least one"),
        ({"negative_prompt": "rust", "guidance_scale": 1.0}, "--negative_prompt: has no effect"),
        ({"seed": [0, -1]}, r"--seed must be at least 0 .*got -1"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(
    four_squares_obj: Path, tmp_path: Path, settings: dict[str, Any], what: str
) -> None:
    settings = {"prompt": ["a crate"]} | settings
    if settings.get("mesh"):
        settings["mesh"] = four_squares_obj
    with pytest.raises(InputError, match=what):
        generate(model="./no model here", output=tmp_path / "x.png", **settings)


@pytest.mark.parametrize("from_mesh", [False, True])
def test_one_step_is_one_step(
    base: Path, four_squares_obj: Path, tmp_path: Path, from_mesh: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "atlas.png"
    Image.new("RGB", (32, 32), (90, 120, 40)).save(old)
    settings = {"mesh": four_squares_obj, "init_image": old} if from_mesh else {}
    generate(model=str(base), prompt="x", output=tmp_path / "x.png", num_inference_steps=1, **settings)
    assert np.asarray(Image.open(tmp_path / "x.png")).shape == ((32, 32, 3) if from_mesh else (64, 64, 3))
    assert "1/1" in capfd.readouterr().err


def test_a_negative_prompt_is_what_the_pipeline_gets(base: Path, loaded: Any, tmp_path: Path) -> None:
    settings = {"model": str(base), "prompt": ["a crate", "a box"], "num_inference_steps": 2}
    generate(**settings, output=tmp_path / "x.png", negative_prompt="rust")
    generate(**settings, output=tmp_path / "y.png")
    for number, prompt in enumerate(settings["prompt"]):
        (with_it,) = sample_batch(loaded, [prompt], [0], 2, 7.5, "rust")
        shown = np.asarray(Image.open(tmp_path / f"x-{number:02d}.png")).astype(int)
        assert np.abs(shown - with_it).max() <= 1
        assert (shown != np.asarray(Image.open(tmp_path / f"y-{number:02d}.png"))).any()
