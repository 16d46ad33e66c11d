"""Each layer of a foreign LoRA acts with its own alpha over its own rank: as the base does with the LoRA merged by hand
in float64."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from texdiff.errors import InputError
from texdiff.models.lora_files.load import add_lora
from texdiff.models.lora_files.strength import PEFT_CONFIG, PEFT_NAME

Layer = tuple[str, str, torch.Tensor, torch.Tensor, float]  # model, name, down, up, alpha


def layers_of(pipeline: Any, text: bool) -> Iterator[Layer]:
    """Factors for every attention layer; of three ranks and four alphas that have no common factor."""
    generator = torch.Generator().manual_seed(0)
    ends = {"unet": ("to_q", "to_k", "to_v", "to_out.0", "proj_in"), "text_encoder": ("q_proj", "out_proj", "fc1")}
    number = 0
    for part in ("unet", "text_encoder")[: 1 + text]:
        for name, module in getattr(pipeline, part).named_modules():
            if name.endswith(ends[part]):
                rank, alpha = 2 + number % 3, float((1, 5, 3, 0.7)[number % 4])
                number += 1
                out, into, *kernel = module.weight.shape
                down = 0.3 * torch.randn(rank, into, *kernel, generator=generator)
                yield part, name, down, 0.3 * torch.randn(out, rank, *[1] * len(kernel), generator=generator), alpha


def merged(pipeline: Any, layers: list[Layer], by_root: bool = False) -> Any:
    """The pipeline in float64 with the LoRA in its weights."""
    models = {part: copy.deepcopy(getattr(pipeline, part)).double() for part in ("unet", "text_encoder")}
    for part, name, down, up, alpha in layers:
        weight = models[part].get_submodule(name).weight
        scale = alpha / (math.sqrt(len(down)) if by_root else len(down))
        with torch.no_grad():
            weight += scale * (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
    return outputs(models["unet"], models["text_encoder"])


def outputs(unet: Any, text_encoder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of fixed inputs: the U-Net's, and the text encoder's."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 4, 8, 8, generator=generator).to(unet.dtype)
    text = torch.randn(1, 7, unet.config.cross_attention_dim, generator=generator).to(unet.dtype)
    tokens = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        return unet(latents, 500, text).sample.double(), text_encoder(tokens)[0].double()


def write_kohya(folder: Path, layers: list[Layer]) -> Path:
    tensors = {}
    for part, name, down, up, alpha in layers:
        name = f"text_model.{name.removeprefix('text_model.')}" if part == "text_encoder" else name
        stem = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{name.replace('.', '_')}"
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(alpha),
        }
    save_file(tensors, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


def settings_of(layers: list[Layer]) -> dict[str, Any]:
    """As PEFT has them: an alpha and rank for all, and patterns for those that differ."""
    alphas, ranks = {name: a for _, name, _, _, a in layers}, {name: len(d) for _, name, d, _, _ in layers}
    return {
        **{"r": 2, "rank_pattern": {name: rank for name, rank in ranks.items() if rank != 2}},
        **{"lora_alpha": 5, "alpha_pattern": {name: alpha for name, alpha in alphas.items() if alpha != 5}},
    }


def write_diffusers(folder: Path, layers: list[Layer], **more: object) -> Path:
    parts = {layer[0] for layer in layers}
    settings = {part: settings_of([layer for layer in layers if layer[0] == part]) | more for part in parts}
    metadata = {f"{part}.{key}": value for part, values in settings.items() for key, value in values.items()}
    tensors = {f"{p}.{n}.lora_{kind}.weight": t for p, n, d, u, _ in layers for kind, t in (("A", d), ("B", u))}
    save_file(tensors, folder / "diffusers.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    return folder / "diffusers.safetensors"


def write_diffusers_with_alphas(folder: Path, layers: list[Layer]) -> Path:
    """An alpha beside diffusers' own names, which several converters write."""
    tensors = {f"{p}.{n}.lora.{kind}.weight": t for p, n, d, u, _ in layers for kind, t in (("down", d), ("up", u))}
    save_file(tensors | {f"{p}.{n}.alpha": torch.tensor([a]) for p, n, _, _, a in layers}, folder / "old.safetensors")
    return folder / "old.safetensors"


def write_peft(folder: Path, layers: list[Layer], **more: object) -> Path:
    tensors = {f"base_model.model.{n}.lora_{k}.weight": t for _, n, d, u, _ in layers for k, t in (("A", d), ("B", u))}
    save_file(tensors, folder / PEFT_NAME)
    (folder / PEFT_CONFIG).write_text(json.dumps({"peft_type": "LORA"} | settings_of(layers) | more), "utf-8")
    return folder


WRITERS = [write_kohya, write_diffusers, write_diffusers_with_alphas, write_peft]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_layer_has_its_own_strength(pipeline: Any, tmp_path: Path, write: Any) -> None:
    layers = list(layers_of(pipeline, text=write is not write_peft))
    before = outputs(pipeline.unet, pipeline.text_encoder)
    expected = merged(pipeline, layers)
    assert add_lora(pipeline, write(tmp_path, layers)) == (len(layers), len(layers))
    for found, right, plain in zip(outputs(pipeline.unet, pipeline.text_encoder), expected, before, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
        if write is not write_peft:
            assert (right - plain).abs().max() > 1e-2  # it matters


@pytest.mark.parametrize("write", [write_diffusers, write_peft], ids=lambda write: write.__name__)
def test_alpha_over_the_root_of_the_rank(pipeline: Any, tmp_path: Path, write: Any) -> None:
    layers = list(layers_of(pipeline, text=False))
    expected, _ = merged(pipeline, layers, by_root=True)
    add_lora(pipeline, write(tmp_path, layers, use_rslora=True))
    torch.testing.assert_close(outputs(pipeline.unet, pipeline.text_encoder)[0], expected, rtol=0, atol=1e-5)


def test_a_pattern_holds_for_all_layers_that_end_in_it(pipeline: Any, tmp_path: Path) -> None:
    layers = [(p, n, d, u, 7.0 if n.endswith("attn2.to_k") else 5.0) for p, n, d, u, _ in layers_of(pipeline, False)]
    expected, _ = merged(pipeline, layers)
    file = write_diffusers(tmp_path, layers, alpha_pattern={r"attn2\.to_k": 7.0})
    add_lora(pipeline, file)
    torch.testing.assert_close(outputs(pipeline.unet, pipeline.text_encoder)[0], expected, rtol=0, atol=1e-5)


def test_an_adapter_of_the_text_encoder_in_pefts_layout(pipeline: Any, tmp_path: Path) -> None:
    layers = [layer for layer in layers_of(pipeline, text=True) if layer[0] == "text_encoder"]
    _, expected = merged(pipeline, layers)
    add_lora(pipeline, write_peft(tmp_path, layers))
    torch.testing.assert_close(outputs(pipeline.unet, pipeline.text_encoder)[1], expected, rtol=0, atol=1e-5)


def test_without_alphas_every_scale_is_1_whatever_the_rank(pipeline: Any, tmp_path: Path) -> None:
    layers = [(part, n, d, u, float(len(d))) for part, n, d, u, _ in layers_of(pipeline, text=True)]
    file = write_kohya(tmp_path, layers)
    from safetensors.torch import load_file

    save_file({key: tensor for key, tensor in load_file(file).items() if not key.endswith(".alpha")}, file)
    expected = merged(pipeline, layers)
    add_lora(pipeline, file)
    for found, right in zip(outputs(pipeline.unet, pipeline.text_encoder), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x.alpha": torch.tensor(float("nan"))}, "the alpha of x cannot be read"),
        ({"x.alpha": torch.tensor([1.0, 2.0])}, "the alpha of x cannot be read"),
        ({"x.lora_up.weight": None}, "x has one factor alone"),
        ({"x.lora_mid.weight": torch.ones(2, 2)}, "x.lora_mid.weight is not part of a LoRA"),
        ({"y.hada_w1_a": torch.ones(2, 2)}, "y.hada_w1_a is not part of a LoRA"),
        ({"y.diff": torch.ones(2, 2)}, "y.diff is not part of a LoRA"),
    ],
)
def test_what_cannot_be_told_is_refused(pipeline: Any, tmp_path: Path, change: Any, said: str) -> None:
    tensors = {"x.lora_down.weight": torch.ones(2, 4), "x.lora_up.weight": torch.ones(4, 2)} | change
    kept = {f"lora_unet_{key}": tensor for key, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=said.replace(" x ", " lora_unet_x ").replace("x has", "lora_unet_x has")) as e:
        add_lora(pipeline, tmp_path / "odd.safetensors")
    assert len(str(e.value).splitlines()) == 1
