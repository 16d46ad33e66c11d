"""Pictures and figures: drawn while training, from prompts, from an atlas, and measured."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_runs import DEVICE, ON_CPU, train_here
from PIL import Image

LOOKS = ["--validation.num_images", 2, "--validation.num_inference_steps", 6]


@pytest.fixture(scope="module")
def lora_run(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of a LoRA, with what evaluation asks of its settings."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    flags = ["--run.max_train_steps", 4, "--validation.num_inference_steps", 4, "--optim.learning_rate", 1e-2]
    train_here(demo, folder, *flags, precision="bf16")
    return folder


@pytest.mark.parametrize("precision", ["no", "bf16", pytest.param("fp16", marks=pytest.mark.needs_cuda)])
def test_validation_and_samples_while_training(precision, demo, tmp_path):
    flags = ["--run.max_train_steps", 4, "--validation.every", 2, "--optim.use_ema", "true"]
    run = train_here(demo, tmp_path / "run", *flags, *LOOKS, precision=precision)
    assert list(run.held_out()) == [0, 2, 4]
    assert all(0 < loss < 2 for loss in run.held_out().values())
    for step in (0, 2, 4):
        pictures = sorted((run.folder / f"samples/step-{step:08d}").glob("*.png"))
        kinds = [sum(path.stem.endswith(kind) for path in pictures) for kind in ("-dimmed", "-mesh")]
        assert (len(pictures), kinds) == (6, [2, 2]), pictures
        for path in pictures:
            assert np.asarray(Image.open(path).convert("RGB")).std() > 5, path  # neither black nor of one colour
    assert (run.folder / "first_batch.png").is_file()
    report = (run.folder / "report.html").read_text("utf-8")
    assert "step-00000004" in report or len(report) > 100_000
    # The same prompts and noise as in float32, so before the first step much the same pictures.
    if precision != "no":
        plain = train_here(demo, tmp_path / "plain", "--run.max_train_steps", 1, *LOOKS)
        for path in sorted((run.folder / "samples/step-00000000").glob("*-dimmed.png")):
            other = plain.folder / "samples/step-00000000" / path.name
            one, same = (np.asarray(Image.open(p)).astype(int) for p in (path, other))
            apart = np.abs(one - same).mean()
            print(f"{path.name}: {apart:.2f} grey levels from float32's")
            assert apart < 12


@pytest.mark.needs_cuda
def test_generate_draws_in_bf16_what_a_cpu_draws(demo, lora_run, tmp_path, monkeypatch):
    from texdiff.cli import main
    from texdiff.inference.sampler import load_pipeline

    pipeline = load_pipeline("nano")
    assert (pipeline.device.type, pipeline.dtype) == ("cuda", torch.bfloat16)
    command = ["generate", "--model", "nano", "--lora", str(lora_run), "--prompt", "rainbow leather barrel"]
    command += ["--num_inference_steps", "8", "--guidance_scale", "3", "--seed", "1", "--output"]
    pictures = {}
    for name in ("one", "again", "cpu"):
        if name == "cpu":
            monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert main([*command, str(tmp_path / f"{name}.png")]) == 0
        pictures[name] = np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int)
    assert np.abs(pictures["one"] - pictures["again"]).mean() < 0.5
    apart = np.abs(pictures["one"] - pictures["cpu"]).mean()
    print(f"{apart:.2f} grey levels from the CPU's picture, whose values spread by {pictures['cpu'].std():.1f}")
    assert apart < 0.1 * pictures["cpu"].std()


def test_generate_dresses_and_restyles_a_mesh(demo, lora_run, tmp_path):
    from texdiff.cli import main

    mesh = sorted((demo.parent / "meshes").glob("*.glb"))[0]
    command = ["generate", "--model", "nano", "--lora", str(lora_run), "--mesh", str(mesh), "--prompt", "rusty metal"]
    command += ["--num_inference_steps", "4", "--guidance_scale", "3", "--output"]
    assert main([*command, str(tmp_path / "worn.glb")]) == 0
    assert (tmp_path / "worn.glb").stat().st_size > 1000
    assert main([*command, str(tmp_path / "restyled.png"), "--strength", "0.5"]) == 0
    assert np.asarray(Image.open(tmp_path / "restyled.png")).std() > 5


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A small network of random weights to take features from."""
    from transformers import ConvNextConfig, ConvNextModel

    torch.manual_seed(0)
    model = ConvNextModel(ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 32, 64]))
    model.save_pretrained(tmp_path / "features")
    settings = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "features/preprocessor_config.json").write_text(json.dumps(settings), "utf-8")
    return tmp_path / "features"


def test_evaluate_samples_and_measures(demo, lora_run, features, monkeypatch):
    from texdiff.evaluation import sampler
    from texdiff.evaluation.evaluate import evaluate
    from texdiff.evaluation.metrics.features import Extractor

    devices = set()
    generate, look = sampler.EvaluationSampler.generate, Extractor.normalised

    def watched(model, *given):
        devices.add(model.pipeline.device.type)
        return generate(model, *given)

    def watched_features(extractor, images):
        seen = look(extractor, images)
        devices.add(f"features on {seen.device.type}, TF32 {torch.backends.cudnn.allow_tf32}")
        return seen

    monkeypatch.setattr(sampler.EvaluationSampler, "generate", watched)
    monkeypatch.setattr(Extractor, "normalised", watched_features)
    figures = evaluate(lora_run, str(demo), feature_model=str(features), num_images=3, guidance_scale=2.0)
    assert devices == {DEVICE, f"features on {DEVICE}, TF32 False"}
    assert json.loads((lora_run / "evaluation.json").read_text("utf-8"))["num_images"] == 3
    for who in ("vae", "base", "trained"):
        assert all(math.isfinite(value) for value in figures["reconstruction"][who].values())
    assert figures["reconstruction"]["vae"]["psnr"] > figures["reconstruction"]["base"]["psnr"]
    assert all(math.isfinite(figures["atlases"][who]["fid"]) for who in ("base", "trained"))
    assert figures["seams"]


@pytest.mark.skipif(ON_CPU, reason="a CPU encodes pictures one at a time")
def test_pictures_encoded_together_are_those_encoded_alone(demo, true_float32):
    from texdiff.data.cache.encoders import encode_textures
    from texdiff.data.records import read_records
    from texdiff.models.family import load_family

    family = load_family("nano")
    family.move_encoders(DEVICE, "images")
    records = read_records(str(demo), "train")
    setting = {"resolution": 128, "background": "fill"}
    together = list(encode_textures(records, family, torch.device(DEVICE), **setting))
    alone = [next(encode_textures([record], family, torch.device(DEVICE), **setting)) for record in records]
    apart = max(float(np.abs(a["mean"] - b["mean"]).max()) for a, b in zip(together, alone, strict=True))
    print(f"latents differ by at most {apart:.1e}")
    assert apart < 1e-3
