"""Storage that has an address is refused in one line, before a folder of that name is made."""

import pytest

from texdiff.config import DataConfig, LayoutConfig, LoraConfig, ModelConfig, TrainingConfig
from texdiff.data.prepare.sources import find_assets
from texdiff.errors import InputError


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("model.pretrained_model_name_or_path", {"model": ModelConfig(pretrained_model_name_or_path="s3://bucket/a")}),
        ("model.vae", {"model": ModelConfig(vae="s3://bucket/a")}),
        ("lora.init", {"lora": LoraConfig(init="s3://bucket/a")}),
        ("layout.init", {"layout": LayoutConfig(init="s3://bucket/a")}),
    ],
)
def test_settings_name_folders(key, sections):
    with pytest.raises(InputError, match=rf"^{key} must be on a disk \(got s3://bucket/a\): .*; copy it$"):
        TrainingConfig(**{"data": DataConfig(dataset="x")} | sections)


@pytest.mark.parametrize("source", ["s3://bucket/meshes", "s3:/bucket/meshes"])
def test_sources_are_on_a_disk(source, tmp_path):
    with pytest.raises(InputError, match=rf"^{source}: storage that has an address is not read; copy it to a disk$"):
        find_assets([source], None, tmp_path)
