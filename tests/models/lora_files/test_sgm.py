"""A LoRA for Stable Diffusion XL in ComfyUI: merged into the weights that its key map finds, it is what was trained."""

import copy
from pathlib import Path
from typing import Any

import nano_xl
import pytest
import torch
from adapters import with_lora
from checkpoints import unet_weights
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from nano_xl import ATTENTION, EVERY_LAYER, export, prediction
from safetensors import safe_open

from texdiff.models.lora_files.load import add_lora as load_lora


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    return nano_xl.make_unet()


@pytest.mark.parametrize(
    ("targets", "rank", "alpha"), [(ATTENTION, 4, 10.0), (EVERY_LAYER, 3, 0.5)], ids=["attention", "every layer"]
)
def test_merged_by_comfyuis_key_map_it_is_what_was_trained(
    unet: Any, base_xl: Path, tmp_path: Path, targets: tuple[str, ...], rank: int, alpha: float
) -> None:
    tuned = with_lora(unet, target_modules=targets, rank=rank, alpha=alpha)
    factors = export(tuned, tmp_path)
    weights = unet_weights(unet)
    key_map = {"lora_unet_" + name.removesuffix(".weight").replace(".", "_"): name for name in weights}
    stems = {key.split(".")[0] for key in factors}
    assert len(factors) == 3 * len(stems)
    assert len(stems) == sum("lora_A" in name for name, _ in tuned.named_parameters())
    for stem in stems:
        up, down = factors[f"{stem}.lora_up.weight"].double(), factors[f"{stem}.lora_down.weight"].double()
        change = (up.flatten(1) @ down.flatten(1)).reshape(weights[key_map[stem]].shape)
        weights[key_map[stem]] += float(factors[f"{stem}.alpha"]) / rank * change

    # diffusers' own reader of such checkpoints brings the merged weights back.
    checkpoint = {f"model.diffusion_model.{name}": tensor for name, tensor in weights.items()}
    merged = copy.deepcopy(unet)
    merged.load_state_dict(
        {k: t.float() for k, t in convert_ldm_unet_checkpoint(checkpoint, dict(unet.config)).items()}
    )
    expected = prediction(tuned)
    assert (prediction(unet) - expected).abs().max() > 1e-3
    torch.testing.assert_close(prediction(merged), expected, atol=1e-5, rtol=1e-5)
    tuned.fuse_lora()
    fused = {name.replace(".base_layer", ""): tensor for name, tensor in tuned.state_dict().items()}
    for name, tensor in unet_weights(merged).items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0, msg=name)
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(fused[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("targets", [ATTENTION, EVERY_LAYER], ids=["attention", "every layer"])
def test_both_files_load_with_their_strength(
    unet: Any, base_xl: Path, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    """Into a pipeline as `texdiff generate --lora` does, and as diffusers does alone."""
    tuned = with_lora(unet, target_modules=targets, rank=4, alpha=10.0)
    export(tuned, tmp_path)
    layers = sum("lora_A" in name for name, _ in tuned.named_parameters())
    expected = prediction(tuned)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base_xl, unet=copy.deepcopy(unet))
    for file in (tmp_path, tmp_path / "kohya.safetensors"):
        assert load_lora(pipeline, file) == (layers, layers)
        torch.testing.assert_close(prediction(pipeline.unet), expected, atol=1e-5, rtol=1e-5)
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(file)
        torch.testing.assert_close(prediction(pipeline.unet), expected, atol=1e-5, rtol=1e-5)
        pipeline.unload_lora_weights()


def test_the_file_says_what_it_is_for(unet: Any, tmp_path: Path) -> None:
    export(with_lora(unet, target_modules=ATTENTION, rank=4, alpha=4.0), tmp_path)
    for name in ("pytorch_lora_weights.safetensors", "kohya.safetensors"):
        with safe_open(tmp_path / name, "pt") as file:
            said = file.metadata()
        assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert said["ss_base_model_version"] == "sdxl_base_v1-0"
        assert said["ss_v2"] == "False"
