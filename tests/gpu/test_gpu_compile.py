"""`run.compile`, on a U-Net of Stable Diffusion 1.5's structure: blocks of three widths, which share their code."""

import shutil
from pathlib import Path

import pytest
import torch
from gpu_runs import train_here


@pytest.fixture
def three_widths(tmp_path: Path) -> Path:
    """nano with another U-Net, of random weights."""
    from diffusers import UNet2DConditionModel

    from texdiff.models.base import resolve_base

    base = Path(shutil.copytree(resolve_base("nano"), tmp_path / "base"))
    text_width = UNet2DConditionModel.load_config(base, subfolder="unet")["cross_attention_dim"]
    shutil.rmtree(base / "unet")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96, 96),
        layers_per_block=1,
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    ).save_pretrained(base / "unet")
    return base


def test_compiled_blocks_lose_as_eager_ones_and_are_compiled_no_more_after_step_2(
    three_widths, demo, tmp_path, after_each_step
):
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    flags = ["--model.pretrained_model_name_or_path", three_widths, "--run.train_batch_size", 2]
    flags += ["--mask.outside", "base_model", "--run.max_train_steps", 6, "--run.checkpointing_steps", 100]
    flags += ["--optim.learning_rate", 1e-4]
    eager = train_here(demo, tmp_path / "eager", *flags, precision="bf16")
    graphs: list[int] = []
    after_each_step(lambda checkpointer, done: graphs.append(counters["stats"]["unique_graphs"]))
    looks = ["--validation.every", 2, "--validation.num_images", 1, "--validation.num_inference_steps", 2]
    compiled = train_here(demo, tmp_path / "compiled", *flags, *looks, "--run.compile", "true", precision="bf16")
    print(f"graphs after each step: {graphs}")
    print(f"losses {eager.of_steps()}, compiled {compiled.of_steps()}")
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[1]] * 5
    assert not [reason for reason in counters["unimplemented"] if "limit" in reason], counters["unimplemented"]
    assert compiled.of_steps() == pytest.approx(eager.of_steps(), rel=2e-2)
    assert compiled.held_out()[6] == pytest.approx(eager.held_out()[6], rel=2e-2)
    assert (tmp_path / "compiled/samples/step-00000006").is_dir()
