"""Inpainting bases as a user trains them: LoRA and every weight, resumed, exported, drawn with the stock pipelines."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import unet_weights
from diffusers import DiffusionPipeline
from PIL import Image
from run_figures import figures, relative_difference
from safetensors.torch import load_file

from texdiff.models.family import Conditioning, load_family
from texdiff.models.lora_files.kohya import write_kohya
from texdiff.training.run.state_file import read_state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

ROOT = Path(__file__).parents[2]
LORA = "pytorch_lora_weights.safetensors"
FLAGS = ["--data.resolution", 64, "--run.report_to", "none", "--validation.num_images", 0]
FLAGS += ["--run.max_train_steps", 10, "--run.checkpointing_steps", 5, "--run.train_batch_size", 4, "--lora.rank", 4]
FLAGS += ["--optim.learning_rate", 1e-2, "--data.caption_dropout", 0.3, "--validation.num_inference_steps", 2]


@pytest.fixture(scope="module")
def islands(make_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures of three islands each."""
    folder = make_dataset(tmp_path_factory.mktemp("islands") / "dataset", [0.9, 1.0, 0.7, 0.8, 0.6], held_out=1)
    for path in folder.glob("*/masks/*.png"):
        mask = np.asarray(Image.open(path)).copy()
        mask[8:16] = mask[24:32] = 0
        Image.fromarray(mask).save(path)
    return folder


@pytest.fixture(scope="module")
def folders(base_inpainting: Path, base_inpainting_xl: Path) -> dict[str, Path]:
    return {"sd": base_inpainting, "sdxl": base_inpainting_xl}


@pytest.fixture(scope="module")
def all_runs(
    folders: dict[str, Path], islands: Path, run_program: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of each family a folder of runs: ten steps in one go, and stopped after five; one step of four, and of singles;
    two of every weight. Of one of them also encoded at every visit, and in the other mode."""
    place = tmp_path_factory.mktemp("runs")
    single = ["--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 4, "--run.max_train_steps", 1]
    each = {
        "lora": [],
        "stopped": ["--run.max_train_steps", 5],
        "batch": ["--run.max_train_steps", 1],
        "singles": single,
        "full": ["--model.train", "full", "--optim.learning_rate", 1e-4, "--run.max_train_steps", 2],
    }
    once = {
        "live": ["--data.cache", "off", "--run.max_train_steps", 2],
        "layout": ["--inpaint.mode", "layout", "--run.max_train_steps", 2, "--validation.num_images", 1],
    }
    first = [("sd", each | once), ("sdxl", each)]
    then = [(family, {"stopped": []}) for family in folders]  # by a process of its own
    said = ""
    for wanted in (first, then):
        words = []
        for family, runs in wanted:
            common = [*FLAGS, "--model.pretrained_model_name_or_path", folders[family], "--data.dataset", islands]
            words += [[*common, *more, "--run.output_dir", place / family / name] for name, more in runs.items()]
        program = ROOT / "tests/support/several_runs.py"
        listed = json.dumps([[*map(str, run)] for run in words])
        done = run_program(sys.executable, program, listed, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr[-3000:]
        said += done.stdout
    (place / "said").write_text(said, "utf-8")
    return place


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runs(all_runs: Path, family: str) -> Path:
    """Of one family."""
    return all_runs / family


@pytest.fixture
def folder(folders: dict[str, Path], family: str) -> Path:
    """The family's base."""
    return folders[family]


def test_a_run_says_what_it_hides_and_draws_samples(all_runs: Path) -> None:
    said = (all_runs / "said").read_text("utf-8")
    assert "inpainting       some islands are hidden, in 4 ways a texture\n" in said
    assert "inpainting       every island is hidden, so that the base is told the UV mask alone\n" in said
    pictures = [*(all_runs / "sd/layout/samples/step-00000002").glob("*.png")]
    assert {np.asarray(Image.open(path)).shape for path in pictures} == {(64, 64, 3)}


def test_a_stopped_run_continues_bit_for_bit(runs: Path) -> None:
    assert figures(runs / "stopped", "loss") == figures(runs / "lora", "loss")
    assert (runs / "stopped" / LORA).read_bytes() == (runs / "lora" / LORA).read_bytes()


def test_without_a_cache_the_numbers_are_the_same(all_runs: Path) -> None:
    ten = figures(all_runs / "sd/lora", "loss")
    assert len(ten) == 10
    assert np.isfinite(ten).all()
    assert figures(all_runs / "sd/live", "loss") == ten[:2]
    assert figures(all_runs / "sd/layout", "loss") != ten[:2]


def test_accumulated_singles_give_the_gradient_of_one_batch(runs: Path) -> None:
    gradients = []
    for name in ("batch", "singles"):
        state = read_state(runs / name / "checkpoints/step-00000001/state.safetensors")["optimizer"]["state"]
        gradients.append({str(index): entry["exp_avg"] for index, entry in state.items()})
    assert relative_difference(*gradients) < 1e-5


def test_the_stock_pipeline_predicts_as_the_trainer_does(runs: Path, folder: Path) -> None:
    """From the exported file, and from the checkpoint's weights in the trainer's own model."""
    from texdiff.config import LoraConfig
    from texdiff.models.trainable import LoraDenoiser

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(runs / "lora")
    own = LoraDenoiser(load_family(str(folder)), LoraConfig(rank=4), 0, torch.float32).eval()
    weights = load_file(runs / "lora/checkpoints/step-00000010/weights.safetensors")
    own.denoiser.load_state_dict(weights, strict=False)
    generator = torch.Generator().manual_seed(0)
    noisy, t = torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([10, 800])
    known = torch.randn(2, 5, 8, 8, generator=generator)
    known[:, :1] = (known[:, :1] > 0).float()
    conditioning = Conditioning(prompt=own.family.encode_prompts(["a crate", ""]), known=known)
    text = conditioning.prompt["text"]
    added = {"time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    if "pooled" in conditioning.prompt:
        added["text_embeds"] = conditioning.prompt["pooled"][:, 0]
    sample = torch.cat([noisy, known[:, :1], known[:, 1:] * pipeline.vae.config.scaling_factor], dim=1)
    base = load_family(str(folder))
    with torch.no_grad():
        stock = pipeline.unet(sample, t, text, added_cond_kwargs=added).sample
        difference = (own(noisy, t, conditioning) - stock).abs().max()
        change = (base.predict(base.denoiser, noisy, t, conditioning) - stock).abs().max()
    print(f"greatest difference {difference:.2g}; the LoRA changes {change:.2g}")
    assert difference < 1e-5
    assert change > 1e-3


def test_kohyas_file_merged_by_hand_is_what_was_trained(runs: Path, folder: Path, family: str, tmp_path: Path) -> None:
    """In float64, by the names that ComfyUI finds layers by: of Stable Diffusion XL those of the published code."""
    write_kohya(runs / "lora" / LORA, tmp_path / "kohya.safetensors")
    factors = load_file(tmp_path / "kohya.safetensors")
    pipeline = DiffusionPipeline.from_pretrained(folder)

    def named(unet: Any) -> dict[str, torch.Tensor]:
        return unet_weights(unet) if family == "sdxl" else {k: t.double() for k, t in unet.state_dict().items()}

    weights = named(pipeline.unet)
    layers = {"lora_unet_" + name.removesuffix(".weight").replace(".", "_"): name for name in weights}
    for stem in {key.split(".")[0] for key in factors}:
        up, down = (factors[f"{stem}.lora_{part}.weight"].double() for part in ("up", "down"))
        weights[layers[stem]] += float(factors[f"{stem}.alpha"]) / len(down) * (up @ down)
    pipeline.load_lora_weights(runs / "lora")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    merged = named(pipeline.unet)
    assert merged.keys() == weights.keys()
    assert max(float((merged[name] - tensor).abs().max()) for name, tensor in weights.items()) < 1e-5


def test_full_fine_tuning_leaves_an_inpainting_pipeline(runs: Path, folder: Path) -> None:
    pipeline, before = (DiffusionPipeline.from_pretrained(place) for place in (runs / "full", folder))
    assert type(pipeline) is type(before)
    card = (runs / "full/README.md").read_text("utf-8")
    assert f"from diffusers import {type(before).__name__}\n" in card
    assert "--complete partial.png --prompt" in card
    assert pipeline.unet.config.in_channels == 9
    weights = load_file(runs / "full/checkpoints/step-00000002/weights.safetensors")
    assert relative_difference(weights, pipeline.unet.state_dict()) == 0
    assert relative_difference(before.unet.state_dict(), weights) > 1e-6
    for part in ("vae", "text_encoder"):
        assert relative_difference(getattr(before, part).state_dict(), getattr(pipeline, part).state_dict()) == 0
