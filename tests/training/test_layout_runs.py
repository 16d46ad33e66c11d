"""Runs with a layout net: trained by itself, and LoRAs under it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import ControlNetModel
from position_maps import add_maps
from safetensors import safe_open
from safetensors.torch import load_file

from texdiff.models.layout_net import Maps, maps_of
from texdiff.training.run.state_file import read_state

LORA = "pytorch_lora_weights.safetensors"
FLAGS = ["--layout.maps", "position", "--layout.dropout", 0.25, "--optim.learning_rate", 1e-3]
FLAGS += ["--run.max_train_steps", 4, "--run.checkpointing_steps", 1, "--run.checkpoints_total_limit", 9]
FLAGS += ["--run.train_batch_size", 2, "--optim.max_grad_norm", 1e6, "--optim.use_ema", "true"]
NET = [*FLAGS, "--model.train", "controlnet"]


def succeed(result):
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step-{step:08d}/weights.safetensors")


def first_gradient(run: Path) -> torch.Tensor:
    """The gradient of step 1, from Adam's state: its first moment is then (1 − β₁) · g."""
    state = read_state(run / "checkpoints/step-00000001/state.safetensors")["optimizer"]["state"]
    return torch.cat([entry["exp_avg"].flatten() / 0.1 for _, entry in sorted(state.items())]).double()


@pytest.fixture(scope="module")
def mapped(dataset, tmp_path_factory) -> Path:
    """The dataset with a map for each texture."""
    return add_maps(shutil.copytree(dataset, tmp_path_factory.mktemp("mapped") / "set"))


@pytest.fixture(scope="module")
def net(mapped, train, tmp_path_factory) -> Path:
    """Four steps of a layout net in one go, each a checkpoint, with samples before and after."""
    run = tmp_path_factory.mktemp("net") / "run"
    pictures = ["--validation.num_images", 1, "--validation.num_inference_steps", 2]
    succeed(train(*NET, *pictures, "--data.dataset", mapped, "--run.output_dir", run))
    return run


def test_a_layout_net_is_trained_and_diffusers_loads_it(net):
    loaded = ControlNetModel.from_pretrained(net / "controlnet")
    assert maps_of(loaded) == Maps()
    ends = [*loaded.controlnet_down_blocks, loaded.controlnet_mid_block]
    assert all(block.weight.abs().max() > 0 for block in ends)
    step_1 = weights(net, 1)
    assert step_1.keys() == dict(loaded.named_parameters()).keys()  # all of it, and nothing of the U-Net
    held_out = {line["step"]: line for line in metrics(net) if "validation_loss" in line}
    assert held_out[0]["layout_gain"] == 0  # exactly: before the first step it changes nothing
    assert held_out[4]["layout_gain"] != 0
    assert sum(name.startswith("layout_gain_t") for name in held_out[4]) == 8
    assert [p.name for p in sorted((net / "samples").glob("step-*"))] == ["step-00000000", "step-00000004"]
    card = (net / "README.md").read_text("utf-8")
    assert 'net = ControlNetModel.from_pretrained("path/to/this/folder/controlnet")' in card
    assert "its longest side reaches from 0.05 to 0.95, and the void is 0 exactly" in card
    report = (net / "report.html").read_text("utf-8")
    assert "Layout net for nano" in report
    assert "Layout gain" in report


def test_step_0_is_the_base_itself(net, mapped, train, tmp_path):
    """Held-out figures before the first step equal those of a LoRA run without a net, bit for bit."""
    flags = ["--run.max_train_steps", 1, "--run.train_batch_size", 2]
    succeed(train(*flags, "--data.dataset", mapped, "--run.output_dir", tmp_path / "run"))
    base, under = metrics(tmp_path / "run")[0], metrics(net)[0]
    assert {name: under[name] for name in base} == base


def test_a_stopped_run_goes_on_bit_for_bit(net, mapped, train, tmp_path):
    again = [*NET, "--data.dataset", mapped, "--run.output_dir", tmp_path / "run"]
    succeed(train(*again, "--run.max_train_steps", 2))
    assert "continues from" in succeed(train(*again)).stdout
    one, other = (load_file(run / "controlnet/diffusion_pytorch_model.safetensors") for run in (net, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_singles_and_checkpointing_give_the_gradient_of_one_batch(net, mapped, train, tmp_path):
    alone = ["--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 2, "--run.max_train_steps", 1]
    alone += ["--run.gradient_checkpointing", "true"]
    succeed(train(*NET, *alone, "--data.dataset", mapped, "--run.output_dir", tmp_path / "run"))
    one, other = first_gradient(net), first_gradient(tmp_path / "run")
    assert (one - other).norm() < 1e-5 * one.norm()


@pytest.mark.slow
def test_two_ranks_give_the_gradient_of_one_batch(net, mapped, run_program, tmp_path):
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "train_texture.py", *NET]
    flags = ["--data.resolution", 64, "--validation.num_images", 0, "--run.report_to", "none"]
    flags += ["--run.train_batch_size", 1, "--run.max_train_steps", 1, "--data.dataset", mapped]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    succeed(run_program(*ranks, *flags, "--run.output_dir", tmp_path / "run", **environment))
    one, other = first_gradient(net), first_gradient(tmp_path / "run")
    assert (one - other).norm() < 1e-5 * one.norm()


@pytest.mark.slow
def test_bf16_and_compiled_blocks_work(net, mapped, train, tmp_path):
    more = ["--run.compile", "true", "--run.max_train_steps", 2]
    bf16 = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    succeed(train(*NET, *more, "--data.dataset", mapped, "--run.output_dir", tmp_path / "run", **bf16))
    half, full = ([m["loss"] for m in metrics(r) if "loss" in m][:2] for r in (tmp_path / "run", net))
    assert half == pytest.approx(full, rel=0.02)


def test_a_lora_under_a_net_trains_adapters_alone_and_says_which_net(net, mapped, train, tmp_path):
    run = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in (net / "controlnet").iterdir()}
    lora = [*FLAGS, "--layout.init", net, "--mask.outside", "base_model", "--data.dataset", mapped]
    assert f"parameters; under the layout net {net}\n" in succeed(train(*lora, "--run.output_dir", run)).stdout
    assert all("lora" in name for name in weights(run, 1))
    assert {path.name: path.read_bytes() for path in (net / "controlnet").iterdir()} == before
    with safe_open(run / LORA, framework="pt") as file:
        said = file.metadata()
    assert said["texdiff.layout.net"] == str(net)
    assert len(said["texdiff.layout.fingerprint"]) == 32
    assert yaml.safe_load((run / "config.yaml").read_text())["layout"]["init"] == str(net)
    lines = [[m for m in metrics(r) if "validation_loss" in m] for r in (run, net)]
    start, end = lines[0][0], lines[1][-1]
    assert start["validation_loss"] == pytest.approx(end["validation_loss"], rel=1e-6)  # under the net, from its end on
    alone = tmp_path / "alone"
    succeed(
        train(*lora, "--run.output_dir", alone, "--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 2)
    )
    one, other = first_gradient(run), first_gradient(alone)
    assert (one - other).norm() < 1e-5 * one.norm()


def test_masks_are_maps_that_every_dataset_has(dataset, train, tmp_path):
    flags = ["--model.train", "controlnet", "--layout.maps", "mask", "--run.max_train_steps", 1]
    succeed(train(*flags, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"))
    assert maps_of(ControlNetModel.from_pretrained(tmp_path / "run/controlnet")) == Maps(kind="mask")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model.train", "controlnet"], "has no layout map"),
        (["--layout.init", "/nowhere", "--dry_run"], "layout.init /nowhere: no layout net there"),
    ],
)
def test_what_is_missing_is_said_in_one_line(flags, said, dataset, mapped, train, tmp_path):
    data = dataset if "controlnet" in flags else mapped
    refused = train("--layout.maps", "position", *flags, "--data.dataset", data, "--run.output_dir", tmp_path / "run")
    assert refused.returncode == 2
    assert said in refused.stderr.splitlines()[-1]
