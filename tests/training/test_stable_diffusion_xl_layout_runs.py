"""Layout nets of Stable Diffusion XL: trained, resumed, exported, and LoRAs under them."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from position_maps import add_maps
from safetensors.torch import load_file

from texdiff.config import LayoutConfig
from texdiff.models.family import Conditioning, load_family
from texdiff.models.layout_net import maps_of
from texdiff.training.run.state_file import read_state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

ROOT = Path(__file__).parents[2]
FLAGS = ["--data.resolution", 64, "--run.report_to", "none", "--validation.num_images", 0, "--layout.maps", "position"]
FLAGS += ["--run.max_train_steps", 4, "--run.checkpointing_steps", 2, "--run.train_batch_size", 4]
FLAGS += ["--optim.learning_rate", 1e-3, "--layout.dropout", 0.25]


@pytest.fixture(scope="module")
def runs(base_xl: Path, dataset: Path, run_program: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps of a net in one go, and stopped after two; one step of four, and of singles; a LoRA under the net."""
    place = tmp_path_factory.mktemp("runs")
    mapped = add_maps(shutil.copytree(dataset, place / "dataset"))
    common = [*FLAGS, "--model.pretrained_model_name_or_path", base_xl, "--data.dataset", mapped]
    net = [*common, "--model.train", "controlnet"]
    single = ["--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 4]
    first = {
        "net": net,
        "stopped": [*net, "--run.max_train_steps", 2],
        "batch": [*net, "--run.max_train_steps", 1],
        "singles": [*net, *single, "--run.max_train_steps", 1],
    }
    then = {
        "stopped": net,
        "lora": [*common, "--layout.init", place / "net", "--lora.rank", 4, "--run.max_train_steps", 2],
    }
    for wanted in (first, then):  # a process of its own continues what is stopped
        words = [[*map(str, [*flags, "--run.output_dir", place / name])] for name, flags in wanted.items()]
        program = ROOT / "tests/support/several_runs.py"
        done = run_program(sys.executable, program, json.dumps(words), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_a_stopped_run_continues_bit_for_bit(runs: Path) -> None:
    file = "controlnet/diffusion_pytorch_model.safetensors"
    assert (runs / "stopped" / file).read_bytes() == (runs / "net" / file).read_bytes()


def test_accumulated_singles_give_the_gradient_of_one_batch(runs: Path) -> None:
    gradients = []
    for name in ("batch", "singles"):
        state = read_state(runs / name / "checkpoints/step-00000001/state.safetensors")["optimizer"]["state"]
        gradients.append(torch.cat([entry["exp_avg"].flatten() for _, entry in sorted(state.items())]).double())
    one, other = gradients
    assert one.norm() > 0
    assert (one - other).norm() / one.norm() < 1e-5


@torch.no_grad()
def test_the_stock_pipeline_predicts_as_the_trainer_does(runs: Path, base_xl: Path) -> None:
    """In its first step, with the net as diffusers loads it and the LoRA that was trained under it."""
    net = ControlNetModel.from_pretrained(runs / "net/controlnet")
    pipeline = StableDiffusionXLControlNetPipeline.from_pretrained(base_xl, controlnet=net)
    pipeline.load_lora_weights(runs / "lora")
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    noisy, layout = torch.randn(1, 4, 8, 8, generator=generator), torch.rand(1, 3, 64, 64, generator=generator)
    seen: dict[str, Any] = {}
    forward = pipeline.unet.forward

    def watch(sample: torch.Tensor, t: torch.Tensor, **inputs: Any) -> Any:
        seen.update(sample=sample, t=t, prediction=forward(sample, t, **inputs)[0])
        return (seen["prediction"],)

    pipeline.unet.forward = watch
    sampling = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent", "height": 64, "width": 64}
    pipeline("a crate", image=maps_of(net).of(layout), latents=noisy, **sampling)

    from texdiff.config import LoraConfig
    from texdiff.models.trainable import LoraDenoiser

    family = load_family(str(base_xl))
    own_net = family.layout_net(LayoutConfig(maps="position", init=str(runs / "net")))
    own = LoraDenoiser(family, LoraConfig(rank=4), 0, torch.float32, own_net).eval()
    weights = load_file(runs / "lora/checkpoints/step-00000002/weights.safetensors")
    own.denoiser.load_state_dict(weights, strict=False)
    conditioning = Conditioning(prompt=family.encode_prompts(["a crate"]), layout=layout)
    got = own(seen["sample"], seen["t"].expand(1), conditioning)
    bare = own(seen["sample"], seen["t"].expand(1), Conditioning(prompt=conditioning.prompt))
    difference = (got - seen["prediction"]).abs().max()
    print(f"greatest difference {difference:.2g}; the map changes {(bare - got).abs().max():.2g}")
    assert difference < 1e-5
    assert (bare - got).abs().max() > 1e-5
