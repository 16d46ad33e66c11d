"""A base's folder: its variants."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from texdiff.errors import InputError
from texdiff.inference.sampler import load_pipeline
from texdiff.models.base import load_base
from texdiff.models.family import load_family

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def halves(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose weights are there as fp16 alone, as diffusers writes it."""
    folder = tmp_path_factory.mktemp("halves") / "base"
    loaded.save_pretrained(folder, variant="fp16")
    assert (folder / "unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    return folder


def test_a_missing_variant_is_named(halves: Path, base: Path, dataset: Path, train: Any, tmp_path: Path) -> None:
    said = f"{halves}: the weights in unet/ are all of a variant; use --model.variant fp16"
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--dry_run"]
    done = train(*flags, "--model.pretrained_model_name_or_path", halves)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(said)
    family = load_family(str(halves), variant="fp16")
    assert family.denoiser.dtype == torch.float32
    with pytest.raises(InputError, match=r"are not of the variant fp16; use --model\.variant null"):
        load_family(str(base), variant="fp16")


def test_sampling_takes_what_is_there(halves: Path, loaded: Any) -> None:
    assert torch.equal(load_pipeline(str(halves)).unet.conv_in.weight, loaded.unet.conv_in.weight)


def test_a_variant_of_some_parts_alone(halves: Path, loaded: Any, tmp_path: Path) -> None:
    """As hub repositories have it, of which somebody halved the U-Net."""
    mixed = Path(shutil.copytree(halves, tmp_path / "mixed"))
    loaded.vae.save_pretrained(mixed / "vae")
    (mixed / "vae/diffusion_pytorch_model.fp16.safetensors").unlink()
    family = load_family(str(mixed), variant="fp16")
    assert torch.equal(family.base.vae.encoder.conv_in.weight, loaded.vae.encoder.conv_in.weight)
    assert load_pipeline(str(mixed)).vae.dtype == torch.float32


@pytest.mark.parametrize(
    ("part", "file", "lost"),
    [
        ("unet", "diffusion_pytorch_model", "down_blocks.0"),
        ("vae", "diffusion_pytorch_model", "decoder.mid_block"),
        ("text_encoder", "model", "layers.0."),  # which transformers alone would draw at random
    ],
)
def test_missing_weights_are_refused(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture, part: str, file: str, lost: str
) -> None:
    spoilt = Path(shutil.copytree(base, tmp_path / "base"))
    path = spoilt / part / f"{file}.safetensors"
    weights = load_file(path)
    left = {name: weight for name, weight in weights.items() if lost not in name}
    save_file(left, path, {"format": "pt"})
    said = (
        rf"has no {part} that can be loaded \(.*{re.escape(lost)}.*, one of {len(weights) - len(left)} weights, is mis"
    )
    capfd.readouterr()
    with pytest.raises(InputError, match=said):
        getattr(load_base(str(spoilt)), part)
    assert "missing" not in capfd.readouterr().err.lower()  # said once
    with pytest.raises(InputError, match=said):
        load_pipeline(str(spoilt))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "a FlowMatchEulerDiscreteScheduler has no"),
        ({"prediction_type": "flow", "beta_start": 1e-4}, "prediction_type flow is none of epsilon, v_prediction, sam"),
    ],
)
def test_another_noise_process_is_refused(base: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    spoilt = Path(shutil.copytree(base, tmp_path / "base"))
    (spoilt / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
    for load in (load_family, load_pipeline):
        with pytest.raises(InputError, match=said):
            load(str(spoilt))


@pytest.mark.parametrize(
    ("vae", "said"),
    [("nano", "no such folder or file, and not a hub id"), ("~/none", "no such folder"), ("{base}/unet", "be loaded")],
)
def test_a_vae_that_is_none_is_the_vaes_fault(base: Path, vae: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.vae: .*{said}"):
        load_family(str(base), vae=vae.format(base=base)).encoder_content("images")
