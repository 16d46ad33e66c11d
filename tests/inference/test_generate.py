"""`texdiff generate`, from the command line to the file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from safetensors.torch import save_file

from texdiff import cli
from texdiff.errors import InputError
from texdiff.inference.sampler import load_pipeline, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_lora_and_a_mesh_on_the_command_line(
    base: Path, loaded: Any, factors: Any, four_squares_obj: Path, tmp_path: Path
) -> None:
    """A process of its own, without network: writes the GLB and says little."""
    run = tmp_path / "run"
    run.mkdir()
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors(1.0).items()}
    save_file(tensors, run / "pytorch_lora_weights.safetensors")
    output = tmp_path / "made" / "squares.glb"
    command = [Path(sys.executable).with_name("texdiff"), "generate", "--model", base, "--lora", run]
    command += ["--mesh", four_squares_obj, "--prompt", "a crate", "--output", output]
    command += ["--num_inference_steps", "2", "--seed", "7"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == [
        f"LoRA {run}: 1 layers",
        "squares.obj: the new texture replaces old.png",
        "seams: both sides of 3 cut edges are brought together (--seams keep leaves them)",
        f"wrote {output}",
    ]
    assert "2/2" in done.stderr  # the progress bar, and nothing that is no progress bar
    assert all("it/s" in line or "s/it" in line for line in done.stderr.replace("\r", "\n").split("\n") if line.strip())
    assert [path.name for path in output.parent.iterdir()] == ["squares.glb"]

    (part,) = trimesh.load_scene(output, process=False).geometry.values()
    worn = np.asarray(part.visual.material.baseColorTexture)
    assert worn.shape == (64, 64, 3)
    without = sample(loaded, "a crate", seed=7, num_inference_steps=2)
    at = [(int((1 - v) * 64), int(u * 64)) for u, v in part.visual.uv[part.faces].mean(axis=1)]
    assert any((worn[i] != without[i]).any() for i in at)  # the LoRA was there


def test_picture_and_defaults(base: Path, loaded: Any, tmp_path: Path) -> None:
    output = tmp_path / "a.PNG"
    arguments = ["generate", "--model", str(base), "--prompt", "a crate", "--output", str(output)]
    assert cli.main([*arguments, "--num_inference_steps", "2"]) == 0
    shown = np.asarray(Image.open(output))
    np.testing.assert_array_equal(shown, sample(loaded, "a crate", 0, 2, 7.5))


def test_the_sampler_is_the_pipelines_own_unless_it_is_plain_ddpm(base: Path, loaded: Any, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler

    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler)
    assert loaded.scheduler.config.prediction_type == "epsilon"
    assert loaded.scheduler.config.beta_schedule == "scaled_linear"
    folder = shutil.copytree(base, tmp_path / "euler")
    EulerDiscreteScheduler.from_config(loaded.scheduler.config).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "EulerDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert type(load_pipeline(str(folder)).scheduler) is EulerDiscreteScheduler


def test_broken_weights_are_said(pipeline: Any) -> None:
    pipeline.unet.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        sample(pipeline, "a crate", num_inference_steps=1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"--output": "x.jpg"}, "--output"),
        ({"--output": "x.glb"}, "--mesh"),
        ({"--output": "taken"}, "--output"),
        ({"--output": "taken/file/x.png"}, "--output"),
        ({"--num_inference_steps": "0"}, "--num_inference_steps"),
        ({"--guidance_scale": "inf"}, "guidance_scale"),
        ({"--seed": "-1"}, "--seed"),
        ({"--mesh": "none.glb"}, "none.glb"),
        ({"--material": "wood"}, "--mesh"),
        ({"--lora": "none"}, "none"),
        ({"--lora": "taken"}, "taken"),
        ({"--model": "./none"}, "none"),
        ({"--model": "taken"}, "taken"),
        pytest.param({"--model": "nobody/nothing"}, "hub", marks=pytest.mark.slow),  # the hub is tried again and again
        ({"--model": "damaged"}, "damaged"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    if "damaged" in change.values():
        shutil.copytree(base, tmp_path / "damaged")
        weights = tmp_path / "damaged/unet/diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    before = sorted(tmp_path.rglob("*"))
    arguments = {"--model": str(base), "--prompt": "a crate", "--output": "x.png"} | change
    try:
        status: Any = cli.main(["generate", *(word for pair in arguments.items() for word in pair)])
    except SystemExit as stopped:  # what the parser itself refuses
        status = stopped.code
    assert status == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    assert what in captured.err
    assert sorted(tmp_path.rglob("*")) == before
