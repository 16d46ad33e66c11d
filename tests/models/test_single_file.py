"""A base in one file is the pipeline that it was made of, for Stable Diffusion 1, 2 and XL."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import vae_weights, write_checkpoint
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from texdiff import generate
from texdiff.errors import InputError
from texdiff.models import single_file
from texdiff.models.base import load_base
from texdiff.models.family import Conditioning, load_family

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PARTS = {"sd1": 859_520_964, "sd2": 865_910_724, "sdxl": 2_567_463_684}


@pytest.fixture(scope="module")
def files(base: Path, base_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, in small widths."""
    folder = tmp_path_factory.mktemp("files")
    small, xl = DiffusionPipeline.from_pretrained(base), DiffusionPipeline.from_pretrained(base_xl)
    return {
        "sd1": write_checkpoint(small, folder / "sd1.safetensors"),
        "sd2": write_checkpoint(small, folder / "sd2.safetensors", open_clip=True),
        "sdxl": write_checkpoint(xl, folder / "sdxl.safetensors"),
    }


@pytest.fixture(autouse=True)
def small_configs(request: pytest.FixtureRequest, base: Path, base_xl: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Settings of the small widths in the place of the true ones."""
    if "true" in request.node.name:
        return
    for kind, source in (("sd1", base), ("sd2", base), ("sdxl", base_xl)):
        shutil.copytree(
            source, tmp_path / "configs" / kind, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*")
        )
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")


@pytest.mark.parametrize(("kind", "size"), PARTS.items())
def test_true_settings_are_of_the_true_shapes(kind: str, size: int) -> None:
    folder = str(single_file.CONFIGS / kind)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder"))
    assert sum(p.numel() for p in unet.parameters()) == size
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    assert text.config.hidden_size == (1024 if kind == "sd2" else 768)
    width = text.config.hidden_size
    if kind == "sdxl":
        with torch.device("meta"):
            other = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder_2"))
        assert sum(p.numel() for p in other.parameters()) == 694_659_840
        width += other.config.hidden_size
    assert unet.config.cross_attention_dim == width


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_every_part_is_the_pipelines(kind: str, files: dict[str, Path], base: Path, base_xl: Path) -> None:
    single = load_family(str(files[kind]), prediction_type="epsilon" if kind == "sd2" else None)
    folder = load_family(str(base_xl if kind == "sdxl" else base))
    for part in (part for parts in folder.models.values() for part in (*parts, "unet")):  # type: ignore[attr-defined]
        ours, theirs = (getattr(family.base, part).state_dict() for family in (single, folder))  # type: ignore[attr-defined]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items()), part
    prompt = single.encode_prompts(["a crate", ""])
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 700])
    with torch.no_grad():
        found, expected = (
            one.predict(one.denoiser, noisy, t, Conditioning(prompt=one.encode_prompts(["a crate", ""])))
            for one in (single, folder)
        )
    if kind == "sd2":  # fills prompts up with another token than the small base does
        assert single.base.tokenizer.pad_token_id == 0  # type: ignore[attr-defined]
    else:
        torch.testing.assert_close(found, expected)
        assert torch.equal(prompt["text"], folder.encode_prompts(["a crate", ""])["text"])
    assert single.encoder_content("images") == folder.encoder_content("images")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_nine_channels_are_an_inpainting_base(
    kind: str, base_inpainting: Path, base_inpainting_xl: Path, tmp_path: Path
) -> None:
    source = base_inpainting_xl if kind == "sdxl" else base_inpainting
    pipeline = DiffusionPipeline.from_pretrained(source)
    file = write_checkpoint(pipeline, tmp_path / "inpainting.safetensors", open_clip=kind == "sd2")
    family = load_family(str(file))
    assert family.hiding is not None
    assert family.process.prediction_type == "epsilon"
    assert family.denoiser_outline().config.in_channels == 9
    ours, theirs = family.denoiser.state_dict(), pipeline.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    family.pipeline(family.denoiser).save_pretrained(tmp_path / "exported")
    again = DiffusionPipeline.from_pretrained(tmp_path / "exported")
    assert type(again) is type(pipeline)
    assert again.unet.config.in_channels == 9


def test_it_is_sampled_trained_and_exported(
    files: dict[str, Path], base_xl: Path, dataset: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    for name, model in (("single", files["sdxl"]), ("folder", base_xl)):
        generate(model=str(model), prompt="a crate", output=tmp_path / f"{name}.png", num_inference_steps=2)
    from PIL import Image

    pictures = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("single", "folder")]
    assert (pictures[0] == pictures[1]).all()
    family = load_family(str(files["sd1"]), prediction_type="v_prediction")
    family.pipeline(family.denoiser).save_pretrained(tmp_path / "exported")
    again = DiffusionPipeline.from_pretrained(tmp_path / "exported")
    assert again.scheduler.config.prediction_type == "v_prediction"
    assert again.tokenizer("a photo").input_ids == [49406, 320, 1125, 49407]


def test_what_it_predicts_is_said_by_settings_metadata_or_its_kind(files: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(files["sd2"])
    with pytest.raises(InputError, match=r"does not say what its U-Net predicts; set model\.prediction_type"):
        load_base(str(files["sd2"]))
    said = {"modelspec.prediction_type": "v"}
    save_file(weights, tmp_path / "said.safetensors", metadata=said)
    save_file(weights | {"v_pred": torch.zeros(0)}, tmp_path / "marked.safetensors")
    for name, given, found in [
        ("said", None, "v_prediction"),
        ("said", "epsilon", "epsilon"),
        ("marked", None, "v_prediction"),
    ]:
        base = load_base(str(tmp_path / f"{name}.safetensors"), prediction_type=given)
        assert base.scheduler.config.prediction_type == found
    assert load_base(str(files["sd1"])).scheduler.config.prediction_type == "epsilon"
    assert load_base("nano", prediction_type="v_prediction").scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("kind", ["file", "folder", "pipeline"])
def test_another_vae_takes_the_place_of_its_own(kind: str, files: dict[str, Path], base: Path, tmp_path: Path) -> None:
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae")
    with torch.no_grad():
        vae.quant_conv.bias += 1
    if kind == "file":
        save_file({key: t.contiguous() for key, t in vae_weights(vae).items()}, tmp_path / "vae.safetensors")
    else:
        vae.save_pretrained(tmp_path / "vae.safetensors" / ("vae" if kind == "pipeline" else ""))
    own = {key: t for key, t in load_file(files["sd1"]).items() if not key.startswith("first_stage_model.")}
    save_file(own, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"has no VAE in it; name one as model\.vae"):
        load_base(str(tmp_path / "none.safetensors"))
    for name in (str(base), str(tmp_path / "none.safetensors")):
        family = load_family(name, vae=str(tmp_path / "vae.safetensors"))
        assert torch.equal(family.base.vae.quant_conv.bias, vae.quant_conv.bias)  # type: ignore[attr-defined]
        assert family.encoder_content("images") != load_family(str(base)).encoder_content("images")
        assert len(family.encoder_state("images")) > 2
        assert torch.equal(family.pipeline(family.denoiser).vae.quant_conv.bias, vae.quant_conv.bias)
    with pytest.raises(InputError, match=r"model\.vae: \S+nowhere: no such folder or file"):
        load_base(str(base), vae=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(64, 8, 3, 3)}, "whose U-Net takes 8 channels"),
        ({"model.diffusion_model.input_blocks.0.0.weight": None}, "has no U-Net of Stable Diffusion 1, 2 or XL in it"),
        ({"cond_stage_model.": None}, "has no text encoder of Stable Diffusion 1, 2 or XL"),
        ({"model.diffusion_model.": None, "lora_unet_x.lora_up.weight": torch.ones(1)}, "is a LoRA, not a base"),
        ({"cond_stage_model.": None, "conditioner.embedders.0.model.ln_final.weight": torch.ones(1)}, "SDXL's refiner"),
    ],
)
def test_files_of_other_kinds_are_refused_by_name(
    files: dict[str, Path], tmp_path: Path, change: Any, said: str
) -> None:
    weights = load_file(files["sd1"])
    for prefix, tensor in change.items():
        weights = {key: t for key, t in weights.items() if not key.startswith(prefix)}
        if tensor is not None:
            weights[prefix] = tensor
    save_file(weights, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=said) as refused:
        load_base(str(tmp_path / "odd.safetensors"))
    assert len(str(refused.value).splitlines()) == 1


def test_pickles_and_damaged_files_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    weights = load_file(files["sd1"])
    key = next(key for key in weights if "attn1.to_q" in key)
    save_file({k: t for k, t in weights.items() if k != key}, tmp_path / "lost.safetensors")
    for name, said in [("model.ckpt", "a pickle, which can run any code"), ("model.safetensors", "not a readable")]:
        with pytest.raises(InputError, match=said) as refused:
            load_base(str(tmp_path / name))
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(InputError, match="has no unet that can be loaded") as refused:
        _ = load_base(str(tmp_path / "lost.safetensors")).unet
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(InputError, match="no such folder or file"):
        load_base(str(tmp_path / "none.safetensors"))
    assert json.loads((single_file.CONFIGS / "sdxl/model_index.json").read_text("utf-8"))
