"""`texdiff evaluate`, from the command line to RUN/evaluation.json."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from texdiff import cli
from texdiff.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, ValidationConfig
from texdiff.data.prepare import prepare_dataset
from texdiff.demo.make import write_meshes
from texdiff.evaluation import evaluate, sampler
from texdiff.evaluation.table import table
from texdiff.evaluation.textures import Textures, read_evaluation_textures
from texdiff.models.family import load_family

LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def write_run(folder: Path, base: Path, dataset: Path, factors: dict[str, torch.Tensor]) -> Path:
    """A finished LoRA run, as far as an evaluation looks at it."""
    folder.mkdir()
    config = TrainingConfig(
        model=ModelConfig(pretrained_model_name_or_path=str(base)),
        data=DataConfig(dataset=str(dataset), resolution=64),
        run=RunConfig(output_dir=str(folder), seed=3),
        validation=ValidationConfig(num_inference_steps=4),
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()), "utf-8")
    (folder / "masks.json").write_text(json.dumps({"voids": {"colours": [[[200, 120, 60], 0.5]]}}))
    tensors = {f"{LAYER}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors.items()}
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def meshes_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    write_meshes(folder / "meshes", count=6, seed=0, size=64)
    prepare_dataset([str(folder / "meshes")], folder / "dataset", validation_fraction=0.34, workers=1)
    return folder / "dataset"


@pytest.mark.slow
def test_a_run_beside_its_base(
    base: Path, factors: Any, meshes_dataset: Path, tmp_path: Path, run_program: Any
) -> None:
    """A LoRA of zeros, and the base trained whole for no step, have its figures to the last digit; another LoRA has
    others, and the base the same in each run."""
    found = {}
    for name, strength in (("zero", 0.0), ("strong", 3.0), ("full", 0.0)):
        run = write_run(tmp_path / name, base, meshes_dataset, factors(strength))
        if name == "full":
            shutil.copytree(base, run, dirs_exist_ok=True)
            config = run / "config.yaml"
            config.write_text(config.read_text("utf-8").replace("train: lora", "train: full"), "utf-8")
        command = [Path(sys.executable).with_name("texdiff"), "evaluate", run, "--dataset", meshes_dataset]
        done = run_program(*command, "--num_images", 4, "--guidance_scale", 2, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((run / "evaluation.json").read_text("utf-8"))
        assert "trained: sampling" in done.stderr  # the bars, and nothing that is no bar
        assert all("%|" in line or not line.strip() for line in done.stderr.replace("\r", "\n").split("\n"))
        for word in (
            "void on the surface: share of the mesh",
            "PSNR",
            "KID (95 % interval)",
            "renders: FID",
            "seams: mean",
            "2 held-out textures",
            "Note: ",
        ):
            assert word in done.stdout
    zero, strong, full = found.values()
    for kind in ("reconstruction", "atlases", "renders", "seams", "void_on_surface"):
        assert zero[kind]["trained"] == zero[kind]["base"]
        assert strong[kind]["base"] == zero[kind]["base"]
        if kind != "void_on_surface":  # neither has any of it
            assert strong[kind]["trained"] != strong[kind]["base"]
    assert {**full, "run": None, "lora": None} == {**zero, "run": None, "lora": None}
    assert (zero["held_out"], zero["references"], zero["num_images"]) == (2, 6, 4)
    for figures in zero["reconstruction"].values():
        assert 3 < figures["psnr"] < 60
        assert -1 < figures["ssim"] < 1
        assert figures["perceptual_distance"] > 0
    for kind in ("atlases", "renders"):
        one = zero[kind]["base"]
        assert one["kid_low"] < one["kid"] < one["kid_high"]
        assert one["fid"] > 0
        assert set(zero[kind]["difference"].values()) == {0.0}
    assert zero["seams"]["own"]["mean"] > 0
    assert zero["prompt_agreement"] is None


def test_textures_come_with_their_void_filled(meshes_dataset: Path) -> None:
    notes: list[str] = []
    data = {"image_column": "image", "mask_column": "mask", "caption_column": "text", "resolution": 64}
    held_out, references = read_evaluation_textures(str(meshes_dataset), data, notes)
    assert (len(held_out), len(references)) == (2, 6)
    assert held_out.names == references.names[:2]
    assert "2 held-out textures are few" in notes[0]
    five = held_out.repeated(5)
    assert five.prompts == (*held_out.prompts, *held_out.prompts, held_out.prompts[0])
    red = np.full((5, 64, 64, 3), (200, 0, 0), np.uint8)
    red[~five.masks] = 255
    assert (five.with_images(red).images == (200, 0, 0)).all()


def test_void_on_the_surface_of_base_and_run(tmp_path: Path) -> None:
    """Two textures, the first of a mesh whose left half has three times the surface."""
    mask = np.ones((32, 32), bool)
    density = np.ones((32, 32), np.float32)
    density[:, :16] = 3
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    real = Textures(("a", "b"), ("a", "b"), noise, np.stack([mask, mask]), (density, None))
    drawn = noise.copy()
    drawn[0, :, :16] = drawn[1] = (255, 0, 255)
    made = {"base": real, "trained": real.with_images(drawn)}
    notes: list[str] = []
    assert evaluate._void(tmp_path, real, made, notes) is None
    assert "no void of a common colour" in notes.pop()
    (tmp_path / "masks.json").write_text(json.dumps({"voids": {"colours": [[[255, 0, 255], 0.5]]}}))
    found = evaluate._void(tmp_path, real, made, notes)
    assert found is not None
    assert found["colours"] == ["#ff00ff"]
    assert found["own"] == found["base"] == {"texels": 0.0, "mesh": 0.0}
    # Two columns of the half see the noise beside them.
    assert found["trained"] == {"texels": pytest.approx((14 / 32 + 1) / 2), "mesh": pytest.approx(3 * 14 / 64)}
    assert not notes


def test_the_table_leaves_out_what_there_is_not() -> None:
    one = {"psnr": 20.0, "ssim": 0.5, "perceptual_distance": 1.0}
    both = {"kid": 0.1, "kid_low": 0.0, "kid_high": 0.2, "fid": 3.0}
    figures = {"reconstruction": dict.fromkeys(("vae", "base", "trained"), one), "renders": None, "seams": None}
    figures |= {
        "atlases": {"base": both, "trained": both, "difference": both},
        "prompt_agreement": None,
        "held_out": 4,
        "references": 9,
    }
    text = table(figures | {"num_images": 8, "features": "some", "notes": ["careful"]})
    assert "0.100 (0.000 to 0.200)  0.100 (0.000 to 0.200)" in text
    assert "renders" not in text
    assert text.endswith("Note: careful.")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"run": "none"}, "none: not a run"),
        ({"run": "damaged"}, "damaged: not a run"),
        pytest.param({"--dataset": "none"}, "none", marks=pytest.mark.slow),  # may be a hub id, which is tried again
        ({"--num_images": "2"}, "--num_images must be at least 3, for KID (got 2)"),
        ({"--features": "./none"}, "--features ./none"),
        ({"--clip": "./none"}, "--clip ./none"),
    ],
)
def test_bad_input_is_one_line(
    base: Path,
    factors: Any,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", base, dataset, factors(0.0))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/config.yaml").write_text(yaml.safe_dump({"model": {}}))
    arguments = {"--dataset": str(dataset)} | {key: value for key, value in change.items() if key != "run"}
    flags = [word for pair in arguments.items() for word in pair]
    assert cli.main(["evaluate", change.get("run", "run"), *flags]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1
    assert what in captured.err
    assert not (tmp_path / "run/evaluation.json").exists()


@pytest.fixture
def tf32() -> Iterator[None]:
    """Allowed, as somebody may have set it before."""
    kinds = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = True
    yield
    for kind, was in zip(kinds, before, strict=True):
        kind.allow_tf32 = was


@pytest.mark.usefixtures("tf32")
def test_networks_are_where_the_pipeline_is_and_in_true_float32(
    base: Path, factors: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `meta`, a device that every machine has, in the place of the GPU."""
    given = []

    class Loaded(Exception):
        pass

    def clip_score(name: str, device: torch.device) -> None:
        given.append((name, device.type))
        raise Loaded

    load = evaluate.load_extractor
    monkeypatch.setattr(evaluate, "inference_device", lambda: torch.device("meta"))
    monkeypatch.setattr(sampler, "inference_device", lambda: torch.device("meta"))
    monkeypatch.setattr(evaluate, "load_extractor", lambda *how: given.append(load(*how).device.type))
    monkeypatch.setattr(evaluate, "ClipScore", clip_score)
    run = write_run(tmp_path / "run", base, dataset, factors(0.0))
    with pytest.raises(Loaded):
        evaluate.evaluate(run, str(dataset), clip="a CLIP")
    assert given == ["meta", ("a CLIP", "meta")]
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert sampler.EvaluationSampler(load_family(str(base)), 64, 2, 1.0, seed=0).pipeline.device.type == "meta"
