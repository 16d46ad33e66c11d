"""A LoRA changes the picture by the strength it was trained with, and one that does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from texdiff.errors import InputError
from texdiff.inference.sampler import sample
from texdiff.models.lora_files.find import lora_file
from texdiff.models.lora_files.load import add_lora
from texdiff.models.lora_files.strength import PEFT_NAME
from texdiff.models.prompts import PromptReading, reading_of

# diffusers' sampler hands a tensor to NumPy 2 in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def write_diffusers(
    file: Path, factors: dict[str, torch.Tensor], alpha: float | None = None, layer: str = LAYER
) -> Path:
    """A file as diffusers and texdiff write it; alpha goes into the metadata."""
    metadata = None
    if alpha is not None:
        config = {"r": 4, "lora_alpha": alpha, "target_modules": [layer]}
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    tensors = {f"unet.{layer}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors.items()}
    save_file(tensors, file, metadata=metadata)
    return file


def write_kohya(file: Path, factors: dict[str, torch.Tensor], alpha: float) -> Path:
    """A file as kohya's scripts write it; alpha is a tensor of its own."""
    stem = "lora_unet_" + LAYER.replace(".", "_")
    down, up = factors["A"].contiguous(), factors["B"].contiguous()
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}
    save_file(tensors, file)
    return file


def noise_prediction(pipeline: Any, lora: Path | None) -> np.ndarray:
    """What the U-Net says to fixed inputs."""
    if lora is not None:
        assert add_lora(pipeline, lora) == (1, 1)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    text = torch.randn(1, 7, pipeline.unet.config.cross_attention_dim, generator=generator)
    with torch.no_grad():
        prediction = pipeline.unet(latents, 500, text).sample.numpy()
    pipeline.unload_lora_weights()
    return prediction


def test_alpha_is_honoured(pipeline: Any, factors: Any, tmp_path: Path) -> None:
    """Alpha 8 at rank 4 is the same as factors twice as strong at alpha 4; in either layout."""
    plain = noise_prediction(pipeline, None)
    once = noise_prediction(pipeline, write_diffusers(tmp_path / "a.safetensors", factors(1.0)))
    twice = noise_prediction(pipeline, write_diffusers(tmp_path / "b.safetensors", factors(2.0)))
    in_metadata = noise_prediction(pipeline, write_diffusers(tmp_path / "c.safetensors", factors(1.0), alpha=8))
    in_kohya = noise_prediction(pipeline, write_kohya(tmp_path / "d.safetensors", factors(1.0), alpha=8.0))
    assert np.abs(once - plain).max() > 1e-3
    assert np.abs(twice - once).max() > 1e-3
    np.testing.assert_allclose(in_metadata, twice, atol=1e-5)
    np.testing.assert_allclose(in_kohya, twice, atol=1e-5)


def test_lora_changes_the_picture_and_the_seed_decides(pipeline: Any, factors: Any, tmp_path: Path) -> None:
    before, again = (sample(pipeline, "a crate", seed=3, num_inference_steps=2) for _ in range(2))
    other = sample(pipeline, "a crate", seed=4, num_inference_steps=2)
    write_diffusers(tmp_path / "pytorch_lora_weights.safetensors", factors(1.0), alpha=4)
    add_lora(pipeline, tmp_path)  # a run folder
    after = sample(pipeline, "a crate", seed=3, num_inference_steps=2)
    assert before.dtype == np.uint8
    assert before.shape == (64, 64, 3)
    np.testing.assert_array_equal(before, again)
    assert (before != other).any()
    assert (before != after).any()


def test_missing_and_garbage_files_are_one_line(pipeline: Any, base: Path, tmp_path: Path) -> None:
    for path, why in [
        (tmp_path / "none", "no such LoRA"),
        (tmp_path, "no pytorch_lora_weights.safetensors"),
        (base, "a whole pipeline"),
        (base / "model_index.json", "not a .safetensors file"),
    ]:
        with pytest.raises(InputError, match=why) as caught:
            lora_file(path)
        assert len(str(caught.value).splitlines()) == 1
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"no tensors here")
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    no_lora = tmp_path / "model.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, no_lora)
    dora = tmp_path / "dora.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(3), "lora_unet_x.dora_scale": torch.zeros(3)}, dora)
    for path, why in [(garbage, "not a readable"), (empty, "no LoRA"), (no_lora, "no LoRA"), (dora, "DoRA")]:
        with pytest.raises(InputError, match=why) as caught:
            add_lora(pipeline, path)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("layout", ["names", "names with alpha", "shapes", "kohya names", "another model"])
def test_a_lora_of_another_base_is_refused(pipeline: Any, factors: Any, tmp_path: Path, layout: str) -> None:
    """Silence would mean pictures without it."""
    file = tmp_path / "other.safetensors"
    pair = factors(1.0)
    if layout == "shapes":
        write_diffusers(file, {"A": torch.randn(4, 999), "B": torch.randn(999, 4)})
    elif layout == "kohya names":
        tensors = {"lora_unet_down_blocks_9_attn1_to_q.lora_down.weight": pair["A"]}
        tensors |= {"lora_unet_down_blocks_9_attn1_to_q.lora_up.weight": pair["B"]}
        save_file(tensors, file)
    elif layout == "another model":
        save_file({f"transformer.blocks.0.attn.to_q.lora_{k}.weight": v for k, v in pair.items()}, file)
    else:
        elsewhere = "down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q"
        write_diffusers(file, pair, alpha=4 if "alpha" in layout else None, layer=elsewhere)
    with pytest.raises(InputError, match="does not fit this base") as caught:
        add_lora(pipeline, file)
    assert len(str(caught.value).splitlines()) == 1


def test_layers_that_are_not_in_the_base_are_counted(pipeline: Any, factors: Any, tmp_path: Path) -> None:
    pair = factors(1.0)
    stems = [f"unet.{LAYER}", "unet.down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q"]
    save_file(
        {f"{stem}.lora_{name}.weight": tensor.clone() for stem in stems for name, tensor in pair.items()},
        tmp_path / "some.safetensors",
    )
    assert add_lora(pipeline, tmp_path / "some.safetensors") == (1, 2)


def test_an_adapter_in_pefts_own_layout(pipeline: Any, factors: Any, tmp_path: Path) -> None:
    """What PEFT's save_pretrained writes of a U-Net: weights, and alpha in a file of its own."""
    from peft import LoraConfig

    expected = noise_prediction(pipeline, write_diffusers(tmp_path / "a.safetensors", factors(1.0), alpha=8))
    folder = tmp_path / "peft"
    folder.mkdir()
    prefix = f"base_model.model.{LAYER}.lora_"
    save_file({f"{prefix}{name}.weight": t.contiguous() for name, t in factors(1.0).items()}, folder / PEFT_NAME)
    with pytest.raises(InputError, match=r"adapter_config\.json is missing beside it"):
        add_lora(pipeline, folder)
    LoraConfig(r=4, lora_alpha=8, target_modules=[LAYER]).save_pretrained(str(folder))
    np.testing.assert_allclose(noise_prediction(pipeline, folder), expected, atol=1e-6)


LONG = "a rusty barrel, worn paint, " * 12  # 84 tokens


@pytest.mark.parametrize(
    ("metadata", "chunks", "skip"),
    [
        ({}, 1, None),
        ({"ss_max_token_length": "225", "ss_clip_skip": "2"}, 3, 1),
        ({"ss_max_token_length": "150", "ss_clip_skip": "1"}, 2, None),
        ({"ss_max_token_length": "many", "ss_clip_skip": "0"}, 1, None),
        ({"ss_max_token_length": "None", "ss_clip_skip": "None"}, 1, None),  # as kohya's scripts say that none is set
    ],
)
def test_prompts_are_read_as_the_file_says(
    metadata: dict[str, str], chunks: int, skip: int | None, pipeline: Any, factors: Any, tmp_path: Path
) -> None:
    """kohya's `ss_clip_skip` counts from 1, where diffusers and texdiff count from 0."""
    file = tmp_path / "one.safetensors"
    save_file({f"unet.{LAYER}.lora_{name}.weight": t.contiguous() for name, t in factors(1.0).items()}, file, metadata)
    add_lora(pipeline, file)
    reading = reading_of(pipeline)
    assert reading == PromptReading(chunks=chunks, clip_skip=skip)
    embedded, _ = pipeline.encode_prompt([LONG], "cpu", 1, False)
    (expected,) = reading.encode(pipeline.tokenizer, pipeline.text_encoder, [LONG])
    assert torch.equal(embedded[0], expected)
    assert len(expected) == (77 if chunks == 1 else 154)


def test_a_clip_skip_that_the_base_has_not_is_refused(pipeline: Any, factors: Any, tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    tensors = {f"unet.{LAYER}.lora_{name}.weight": t.contiguous() for name, t in factors(1.0).items()}
    save_file(tensors, file, {"ss_clip_skip": "40"})
    with pytest.raises(InputError, match=r"one\.safetensors: was trained with clip skip 40, more than"):
        add_lora(pipeline, file)
