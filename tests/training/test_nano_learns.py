"""What a LoRA on `nano` learns in the demo's time, on looks that the base has never seen."""

import json
import sys

import pytest

from texdiff.demo.make import write_meshes


@pytest.fixture(scope="module")
def new_looks(run_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("new_looks")
    write_meshes(folder / "meshes", count=28, seed=0, size=256)
    texdiff = "import sys; from texdiff.cli import main; sys.exit(main())"
    arguments = ["prepare", folder / "meshes", "--output", folder / "dataset", "--validation_fraction", 0.25]
    result = run_program(sys.executable, "-c", texdiff, *arguments)
    assert result.returncode == 0, result.stderr
    return folder / "dataset"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_masked_loss_falls_clearly_below_the_base(seed, new_looks, run_program, tmp_path):
    flags = ["--config", "configs/demo.yaml", "--data.dataset", new_looks, "--run.output_dir", tmp_path / "run"]
    flags += ["--run.seed", seed, "--validation.num_images", 0, "--validation.every", 0]
    result = run_program(sys.executable, "train_texture.py", *flags)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    base, trained = (line["validation_loss"] for line in lines if "validation_loss" in line)
    assert trained < 0.9 * base
