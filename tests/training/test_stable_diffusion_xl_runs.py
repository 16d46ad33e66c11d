"""Stable Diffusion XL as a user trains it: LoRA and every weight, resumed, exported, sampled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from run_figures import figures, relative_difference
from safetensors.torch import load_file

from texdiff import cli, generate
from texdiff.models.family import Conditioning, load_family
from texdiff.training.run.state_file import read_state

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LORA = "pytorch_lora_weights.safetensors"
FLAGS = ["--run.max_train_steps", 10, "--run.checkpointing_steps", 5, "--run.train_batch_size", 4, "--lora.rank", 4]
FLAGS += ["--optim.learning_rate", 1e-2, "--data.caption_dropout", 0.3, "--validation.num_inference_steps", 2]


def succeed(result: Any) -> Any:
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def flags(base_xl: Path, dataset: Path) -> list[Any]:
    return [*FLAGS, "--model.pretrained_model_name_or_path", base_xl, "--data.dataset", dataset]


@pytest.fixture(scope="module")
def trained(flags: list[Any], train: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps in one go, with a sample image."""
    run = tmp_path_factory.mktemp("trained") / "run"
    succeed(train(*flags, "--run.output_dir", run, "--validation.num_images", 1))
    return run


def test_a_run_leaves_figures_and_samples(trained: Path) -> None:
    assert len(figures(trained, "loss")) == 10
    assert np.isfinite(figures(trained, "loss")).all()
    (picture,) = [path for path in (trained / "samples/step-00000010").glob("*.png") if "dimmed" not in path.name]
    assert np.asarray(Image.open(picture)).shape == (64, 64, 3)
    assert "stable-diffusion-xl" in (trained / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_stopped_run_continues_bit_for_bit(trained: Path, flags: list[Any], train: Any, tmp_path: Path) -> None:
    for steps in (5, 10):
        succeed(train(*flags, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", steps))
    assert figures(tmp_path / "run", "loss") == figures(trained, "loss")
    assert (tmp_path / "run" / LORA).read_bytes() == (trained / LORA).read_bytes()


def test_a_run_starts_from_the_lora_of_another(trained: Path, flags: list[Any], train: Any, tmp_path: Path) -> None:
    more = ["--lora.init", trained, "--run.max_train_steps", 1, "--run.output_dir", tmp_path / "run"]
    said = succeed(train(*flags, *more)).stdout
    assert f"adapters of rank 4 from {trained} on " in said
    assert "to_out.0 34" in said
    assert figures(tmp_path / "run", "validation_loss")[0] == pytest.approx(
        figures(trained, "validation_loss")[-1], rel=1e-6
    )
    assert figures(trained, "validation_loss")[-1] != figures(trained, "validation_loss")[0]


def test_the_stock_pipeline_predicts_as_the_trainer_does(trained: Path, base_xl: Path) -> None:
    """From the exported file, and from the checkpoint's weights in the trainer's own model."""
    from texdiff.config import LoraConfig
    from texdiff.models.trainable import LoraDenoiser

    pipeline = StableDiffusionXLPipeline.from_pretrained(base_xl)
    pipeline.load_lora_weights(trained)
    own = LoraDenoiser(load_family(str(base_xl)), LoraConfig(rank=4), 0, torch.float32).eval()
    weights = load_file(trained / "checkpoints/step-00000010/weights.safetensors")
    own.denoiser.load_state_dict(weights, strict=False)
    noisy, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 800])
    conditioning = Conditioning(prompt=own.family.encode_prompts(["a crate", ""]))
    text, no_text, pooled, no_pooled = pipeline.encode_prompt("a crate", device="cpu")
    added = {"text_embeds": torch.cat([pooled, no_pooled]), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    with torch.no_grad():
        stock = pipeline.unet(noisy, t, torch.cat([text, no_text]), added_cond_kwargs=added).sample
        difference = (own(noisy, t, conditioning) - stock).abs().max()
        base = load_family(str(base_xl))
        change = (base.predict(base.denoiser, noisy, t, conditioning) - stock).abs().max()
    print(f"greatest difference {difference:.2g}; the LoRA changes {change:.2g}")
    assert difference < 1e-5
    assert change > 1e-3


def test_generate_takes_base_and_lora_and_starts_from_images(
    trained: Path, base_xl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kohya, picture, again = tmp_path / "kohya.safetensors", tmp_path / "lora.png", tmp_path / "again.png"
    assert cli.main(["export", str(trained), "--output", str(kohya)]) == 0
    sampling = {"model": str(base_xl), "prompt": "a crate", "num_inference_steps": 2}
    generate(**sampling, lora=kohya, output=picture)
    assert f"LoRA {kohya}: 136 layers\n" in capsys.readouterr().out
    generate(**sampling, lora=trained, init_image=picture, negative_prompt="dark", output=again)
    assert np.asarray(Image.open(again)).shape == (64, 64, 3)


@pytest.mark.slow
def test_accumulated_singles_give_the_gradient_of_one_batch(flags: list[Any], train: Any, tmp_path: Path) -> None:
    gradients = []
    for batch in (4, 1):
        run = tmp_path / str(batch)
        sizes = ["--run.train_batch_size", batch, "--run.gradient_accumulation_steps", 4 // batch]
        succeed(train(*flags, *sizes, "--run.output_dir", run, "--run.max_train_steps", 1))
        state = read_state(run / "checkpoints/step-00000001/state.safetensors")["optimizer"]["state"]
        gradients.append({str(index): entry["exp_avg"] for index, entry in state.items()})
    assert relative_difference(*gradients) < 1e-5


@pytest.mark.slow
def test_full_fine_tuning_leaves_a_pipeline_with_both_encoders_as_they_were(
    base_xl: Path, flags: list[Any], train: Any, tmp_path: Path
) -> None:
    few = ["--run.max_train_steps", 2, "--model.train", "full", "--optim.learning_rate", 1e-4]
    succeed(train(*flags, *few, "--run.output_dir", tmp_path / "run"))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run")
    assert isinstance(pipeline, StableDiffusionXLPipeline)
    weights = load_file(tmp_path / "run/checkpoints/step-00000002/weights.safetensors")
    assert relative_difference(weights, pipeline.unet.state_dict()) == 0
    before = StableDiffusionXLPipeline.from_pretrained(base_xl)
    assert relative_difference(before.unet.state_dict(), weights) > 1e-6
    for part in ("vae", "text_encoder", "text_encoder_2"):
        assert relative_difference(getattr(before, part).state_dict(), getattr(pipeline, part).state_dict()) == 0
    assert pipeline.tokenizer_2.pad_token_id == 0
