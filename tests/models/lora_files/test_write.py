"""A run's LoRA in other programs: merged by hand as kohya's layout says, it is what diffusers makes of the original."""

import copy
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import with_lora
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from texdiff import cli
from texdiff.config import DataConfig, LoraConfig, ModelConfig, TrainingConfig
from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.kohya import write_kohya
from texdiff.models.lora_files.metadata import lora_metadata
from texdiff.models.lora_files.safetensors_bytes import write_weights
from texdiff.models.lora_files.write import write_lora
from texdiff.models.nano import make_unet

EVERY_LAYER = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "conv1", "conv2", "conv_shortcut", "proj_in")
EVERY_LAYER += ("time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in")


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    return make_unet()


def merged_by_hand(unet: Any, file: Path) -> dict[str, torch.Tensor]:
    """Weights after W + alpha / rank * up @ down, layer by layer, in float64: what ComfyUI and the WebUI do."""
    factors = load_file(file)
    weights = {name: tensor.double() for name, tensor in unet.state_dict().items()}
    stems = {"lora_unet_" + name.removesuffix(".weight").replace(".", "_"): name for name in weights}
    found = {key.split(".")[0] for key in factors}
    assert len(factors) == 3 * len(found)
    for stem in found:
        up, down = factors[f"{stem}.lora_up.weight"].double(), factors[f"{stem}.lora_down.weight"].double()
        change = (up.flatten(1) @ down.flatten(1)).reshape(weights[stems[stem]].shape)
        weights[stems[stem]] += float(factors[f"{stem}.alpha"]) / down.shape[0] * change
    return weights


def noise_prediction(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 7, unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        return unet.eval()(latents, 500, text).sample


@pytest.mark.parametrize(
    "settings",
    [{"rank": 4, "alpha": 10.0}, {"rank": 8}, {"rank": 3, "alpha": 0.5, "target_modules": EVERY_LAYER}],
    ids=["alpha above rank", "alpha is rank", "every kind of layer"],
)
def test_kohya_merged_by_hand_is_what_diffusers_merges(unet: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    from diffusers import StableDiffusionPipeline

    tuned = with_lora(unet, **settings)
    write_lora(tuned, tmp_path)
    write_kohya(tmp_path / LORA_FILE, tmp_path / "kohya.safetensors")
    by_hand = merged_by_hand(unet, tmp_path / "kohya.safetensors")

    expected = noise_prediction(tuned)
    assert (noise_prediction(unet) - expected).abs().max() > 1e-2
    merged = copy.deepcopy(unet)
    merged.load_state_dict({name: tensor.float() for name, tensor in by_hand.items()})
    torch.testing.assert_close(noise_prediction(merged), expected, atol=1e-5, rtol=1e-5)

    tuned.fuse_lora()
    fused = {name.replace(".base_layer", ""): tensor for name, tensor in tuned.state_dict().items()}
    for name, tensor in by_hand.items():
        torch.testing.assert_close(fused[name].double(), tensor, atol=1e-5, rtol=0, msg=name)

    # And through the loader that diffusers has for the files of kohya's scripts.
    loaded = copy.deepcopy(unet)
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path), weight_name="kohya.safetensors")
    StableDiffusionPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=loaded)
    torch.testing.assert_close(noise_prediction(loaded), expected, atol=1e-5, rtol=1e-5)


def test_metadata_is_true_and_the_bytes_repeat(unet: Any, tmp_path: Path) -> None:
    config = TrainingConfig(
        data=DataConfig(dataset="anywhere", resolution=256),
        model=ModelConfig(pretrained_model_name_or_path="/home/me/some base"),
        lora=LoraConfig(rank=4, alpha=2.0),
    )
    tuned = with_lora(unet, rank=4, alpha=2.0)
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_lora(tuned, tmp_path / name, lora_metadata(config.to_dict(), tuned, "epsilon", textures=24, steps=1000))
        write_kohya(tmp_path / name / LORA_FILE, tmp_path / name / "kohya.safetensors")
        files.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
    assert files[0] == files[1]
    for path, implementation in (
        (tmp_path / "one/pytorch_lora_weights.safetensors", "diffusers"),
        (tmp_path / "one/kohya.safetensors", "https://github.com/Stability-AI/generative-models"),
    ):
        data = path.read_bytes()
        with safe_open(path, "pt") as file:
            said = file.metadata()
        (length,) = struct.unpack("<Q", data[:8])
        assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[8 + length :]).hexdigest()
        assert said["modelspec.implementation"] == implementation
        assert {k: said[k] for k in ("ss_network_dim", "ss_network_alpha", "ss_learning_rate", "ss_steps")} == {
            "ss_network_dim": "4",
            "ss_network_alpha": "2.0",
            "ss_learning_rate": "0.0001",
            "ss_steps": "1000",
        }
        assert said["ss_sd_model_name"] == "some base"
        assert said["modelspec.resolution"] == "256x256"
        assert said["modelspec.architecture"] == "stable-diffusion/lora"  # the small base is neither v1 nor v2
        assert "/home/me" not in json.dumps(said)
    assert "lora_adapter_metadata" not in said


@pytest.mark.parametrize(
    ("width", "prediction", "version", "architecture"),
    [
        (768, "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
        (1024, "epsilon", "sd_v2", "stable-diffusion-v2-512/lora"),
        (1024, "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ],
)
def test_the_base_is_called_what_other_programs_call_it(
    width: int, prediction: str, version: str, architecture: str
) -> None:
    small = UNet2DConditionModel(
        block_out_channels=(8,),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=width,
    )
    said = lora_metadata(TrainingConfig(data=DataConfig(dataset="x")).to_dict(), small, prediction, textures=1, steps=1)
    assert said["ss_base_model_version"] == version
    assert said["modelspec.architecture"] == architecture
    assert said["ss_v2"] == str(width == 1024)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.float16), "none": torch.zeros(0)}
    metadata = {"title": 'quote " and ünï and 纹理\n', "a": ""}
    write_weights(tmp_path / "x.safetensors", tensors, metadata)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == metadata


def test_what_cannot_be_exported_is_one_line(unet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dora").mkdir()
    write_lora(with_lora(unet, rank=2, use_dora=True), tmp_path / "dora")
    (tmp_path / "lora").mkdir()
    write_lora(with_lora(unet, rank=2), tmp_path / "lora")
    (tmp_path / "garbage.safetensors").write_bytes(b"no")
    output = tmp_path / "k.safetensors"
    for source, target, why in [
        ("dora", output, "DoRA"),
        ("none", output, "no such LoRA"),
        ("garbage.safetensors", output, "name a LoRA run"),
        ("lora", tmp_path / "k.pt", "must end in .safetensors"),
        ("lora", tmp_path / "garbage.safetensors/k.safetensors", "cannot be written"),
    ]:
        assert cli.main(["export", str(tmp_path / source), "--output", str(target)]) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert why in said
        assert not output.exists()
    assert cli.main(["export", str(tmp_path / "lora"), "--output", str(output)]) == 0
    assert output.is_file()
