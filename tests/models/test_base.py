"""A base's folder: its variants."""

from pathlib import Path
from typing import Any

import pytest
import torch

from texdiff.errors import InputError
from texdiff.inference.sampler import load_pipeline
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
