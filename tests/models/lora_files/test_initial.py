"""A training that starts from a LoRA predicts before its first step what that LoRA does, whoever made it."""

import copy
import json
from pathlib import Path
from typing import Any

import nano_xl
import pytest
import torch
from adapters import with_lora
from nano_xl import ATTENTION, EVERY_LAYER, export, prediction
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from texdiff.config import DataConfig, LoraConfig, ModelConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.kohya import write_kohya
from texdiff.models.lora_files.write import write_lora
from texdiff.models.trainable import add_lora, trainable_parameters


@pytest.fixture(scope="module")
def unet() -> Any:
    torch.manual_seed(0)
    return nano_xl.make_unet()


def begun(unet: Any, path: Path, **settings: Any) -> Any:
    """A copy of the U-Net with the adapters of a file."""
    other = copy.deepcopy(unet)
    initial = add_lora(other, LoraConfig(init=str(path), **settings), seed=3)
    assert initial is not None
    return other


def peft_folder(tuned: Any, unet: Any, targets: tuple[str, ...], folder: Path) -> Path:
    """What PEFT itself saves of the same adapters."""
    model = get_peft_model(copy.deepcopy(unet), PeftConfig(r=4, lora_alpha=10, target_modules=list(targets)))
    values = {f"base_model.model.{name}": p.data for name, p in trainable_parameters(tuned).items()}
    model.load_state_dict(values, strict=False)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("layout", "targets"),
    [(layout, ATTENTION) for layout in ("diffusers", "kohya", "peft", "older diffusers")]
    + [pytest.param(layout, EVERY_LAYER, marks=pytest.mark.slow) for layout in ("diffusers", "kohya", "peft")],
)
def test_it_begins_where_the_file_ends(unet: Any, tmp_path: Path, layout: str, targets: tuple[str, ...]) -> None:
    tuned = with_lora(unet, target_modules=targets, rank=4, alpha=10.0)
    export(tuned, tmp_path)
    file = tmp_path
    if layout == "kohya":
        file = tmp_path / "kohya.safetensors"
    elif layout == "peft":
        file = peft_folder(tuned, unet, targets, tmp_path / "peft")
    elif layout == "older diffusers":
        file = tmp_path / "old.safetensors"
        tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
        old = {}
        for key, tensor in tensors.items():
            before, _, rest = key.partition(".to_")
            projection, factor = rest.replace("out.0", "out").split(".lora.")
            old[f"{before}.processor.to_{projection}_lora.{factor}"] = tensor * (2.5 if "up" in factor else 1)
        save_file(old, file)  # without a strength
    other = begun(unet, file)
    torch.testing.assert_close(prediction(other), prediction(tuned), rtol=1e-5, atol=1e-6)
    trained = trainable_parameters(other)
    assert trained.keys() == trainable_parameters(tuned).keys()
    assert {p.dtype for p in trained.values()} == {torch.float32}
    if layout != "older diffusers":
        assert all(torch.equal(p, trainable_parameters(tuned)[name]) for name, p in trained.items())
        assert (other.peft_config["default"].r, other.peft_config["default"].lora_alpha) == (4, 10)


def foreign(unet: Any, folder: Path, more: dict[str, torch.Tensor]) -> Path:
    """A file in kohya's layout with ranks and strengths that differ between layers."""
    export(with_lora(unet, target_modules=EVERY_LAYER, rank=4, alpha=4.0), folder)
    tensors = load_file(folder / "kohya.safetensors")
    for number, stem in enumerate(sorted({key.split(".")[0] for key in tensors})):
        rank = 2 + number % 3
        tensors[f"{stem}.lora_down.weight"] = tensors[f"{stem}.lora_down.weight"][:rank].clone()
        tensors[f"{stem}.lora_up.weight"] = tensors[f"{stem}.lora_up.weight"][:, :rank].clone()
        tensors[f"{stem}.alpha"] = torch.tensor((1.0, 5.0, 0.7)[number % 3])
    save_file(tensors | more, folder / "foreign.safetensors")
    return folder / "foreign.safetensors"


def test_each_layer_keeps_its_rank_and_strength_through_both_exports(unet: Any, tmp_path: Path) -> None:
    """Also in a run that is exported right away: merged by hand it is what the first file was."""
    stem = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    te = {f"{stem}.lora_down.weight": torch.ones(2, 16), f"{stem}.lora_up.weight": torch.ones(16, 2)}
    file = foreign(unet, tmp_path, te)
    other = begun(unet, file)
    (tmp_path / "again").mkdir()
    assert export(other, tmp_path / "again").keys() == load_file(file).keys() - te.keys()
    for path in (tmp_path / "again", tmp_path / "again/kohya.safetensors"):
        torch.testing.assert_close(prediction(begun(unet, path)), prediction(other), rtol=1e-6, atol=1e-6)
    before, after = load_file(file), load_file(tmp_path / "again/kohya.safetensors")
    for key in after:
        torch.testing.assert_close(after[key], before[key], rtol=1e-6, atol=0)
    pipeline_like = copy.deepcopy(unet)
    pipeline_like.load_lora_adapter(
        load_file(tmp_path / "again/pytorch_lora_weights.safetensors"), prefix="unet", metadata=metadata(tmp_path)
    )
    torch.testing.assert_close(prediction(pipeline_like), prediction(other), rtol=1e-5, atol=1e-6)


def metadata(folder: Path) -> dict[str, Any]:
    """The adapter's settings as diffusers takes them out of the file."""
    from safetensors import safe_open

    with safe_open(folder / "again/pytorch_lora_weights.safetensors", "pt") as file:
        return json.loads(file.metadata()["lora_adapter_metadata"])


def test_what_is_left_out_and_what_is_trained_is_said(unet: Any, tmp_path: Path) -> None:
    te = {"lora_te2_x.lora_down.weight": torch.ones(2, 3), "lora_te2_x.lora_up.weight": torch.ones(3, 2)}
    file = foreign(unet, tmp_path, te)
    said = str(add_lora(copy.deepcopy(unet), LoraConfig(init=str(file)), seed=0))
    assert said.startswith(f"adapters of rank 2 to 4 from {file} on ")
    assert said.endswith(f"; what {file} has for 1 layers of text encoders is left out")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 8}, r"lora\.rank: 8, but lora\.init \S+ has 4; leave lora\.rank out"),
        ({"alpha": 4.0}, r"lora\.alpha: 4, but lora\.init \S+ has 10"),
        ({"use_dora": True}, r"lora\.use_dora must be false with lora\.init"),
        ({"target_modules": ("to_q",)}, r"lora\.target_modules: other layers than those of lora\.init"),
    ],
)
def test_settings_that_ask_for_something_else_are_refused(unet: Any, tmp_path: Path, settings: Any, said: str) -> None:
    export(with_lora(unet, target_modules=ATTENTION, rank=4, alpha=10.0), tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        begun(unet, tmp_path, **settings)
    assert len(str(refused.value).splitlines()) == 1
    begun(unet, tmp_path, rank=4, alpha=10.0, target_modules=ATTENTION)


def test_what_does_not_fit_is_refused(unet: Any, tmp_path: Path) -> None:
    export(with_lora(unet, target_modules=ATTENTION, rank=4, alpha=10.0), tmp_path)
    from texdiff.models.nano import make_unet

    for file in (tmp_path, tmp_path / "kohya.safetensors"):
        with pytest.raises(
            InputError, match=r"lora\.init \S+: does not fit this base's U-Net \(.*, is not in it\)"
        ) as no:
            begun(make_unet(), file)
        assert len(str(no.value).splitlines()) == 1
    with pytest.raises(InputError, match="no such LoRA"):
        begun(unet, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"lora\.init needs model\.train lora \(got full\)"):
        TrainingConfig(data=DataConfig(dataset="d"), model=ModelConfig(train="full"), lora=LoraConfig(init="x"))


def test_a_dora_is_continued_as_one(unet: Any, tmp_path: Path) -> None:
    tuned = copy.deepcopy(unet)
    add_lora(tuned, LoraConfig(rank=2, use_dora=True), seed=0)
    with torch.no_grad():
        for number, parameter in enumerate(trainable_parameters(tuned).values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    write_lora(tuned, tmp_path)
    torch.testing.assert_close(
        prediction(begun(unet, tmp_path, use_dora=True)), prediction(tuned), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match=r"lora\.use_dora must be true with lora\.init"):
        begun(unet, tmp_path)
    with pytest.raises(InputError, match="DoRA"):
        write_kohya(tmp_path / LORA_FILE, tmp_path / "kohya.safetensors")
