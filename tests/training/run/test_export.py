"""What a run leaves for other programs: at every checkpoint, where it was best, and where it stopped early."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from texdiff.config import DataConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.models.base import resolve_base
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.state_file import read_state
from texdiff.training.startup import read_splits

ROOT = Path(__file__).parents[3]
LORA = "pytorch_lora_weights.safetensors"
PATIENCE, EVERY = 3, 1
# So high a learning rate that the held-out loss goes down for some steps and then up.
FLAGS = ["--run.max_train_steps", 40, "--run.checkpointing_steps", EVERY, "--validation.every", EVERY]
FLAGS += ["--run.early_stopping_patience", PATIENCE, "--optim.learning_rate", 0.03, "--optim.use_ema", "true"]
FLAGS += ["--run.train_batch_size", 2, "--optim.ema_decay", 0.5]


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in lines]


def held_out(run: Path) -> dict[int, float]:
    return {line["step"]: line["validation_loss"] for line in metrics(run) if "validation_loss" in line}


def leaves(run: Path) -> dict[str, object]:
    """The exports, and all that decides when the run ends and which of its steps is the best."""
    files = [run / LORA, *(run / "best").iterdir(), *(run / "checkpoints").rglob("*.safetensors")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files} | {"metrics": metrics(run)}


@pytest.fixture(scope="module")
def early(dataset, train, tmp_path_factory):
    """A run that stops early."""
    run = tmp_path_factory.mktemp("early") / "run"
    result = train(*FLAGS, "--data.dataset", dataset, "--run.output_dir", run)
    assert result.returncode == 0, result.stderr[-3000:]
    return run, result


def test_it_stops_where_the_held_out_loss_has_not_come_down(early):
    run, result = early
    losses = held_out(run)
    best = min((loss, step) for step, loss in losses.items() if step > 0)[1]
    last = max(losses)
    assert last == best + PATIENCE * EVERY < 40
    assert best > 2 * EVERY  # else the test would not see one best take another's place
    assert max(line["step"] for line in metrics(run)) == last
    assert json.loads((run / "best/best.json").read_text()) == {"step": best, "validation_loss": losses[best]}
    said = f"stops after step {last}: no lower held-out loss in {PATIENCE} validations, since step {best} "
    assert said + f"({losses[best]:.4f})" in result.stdout.splitlines()
    assert f"the best, after {best} steps, in {run / 'best'}" in result.stdout
    page, card = ((run / name).read_text("utf-8") for name in ("report.html", "README.md"))
    assert f"stopped early at step {last}: no lower held-out error in {PATIENCE} validations" in page
    assert f"<b>{losses[best]:.4f}</b>the lowest, at step {best}; its weights are in best/" in page
    assert f"It was lowest after {best} steps ({losses[best]:.4f}): the weights of that step are in `best/`" in card
    assert f"| | the base itself | after {best} steps | after {last} steps |" in card
    assert f"| validation loss | {losses[0]:.4f} | {losses[best]:.4f} | {losses[last]:.4f} |" in card


def test_each_checkpoint_has_what_the_run_would_export_and_old_ones_nothing_else(early):
    run, _ = early
    best, last = json.loads((run / "best/best.json").read_text())["step"], max(held_out(run))
    folders = sorted((run / "checkpoints").iterdir())
    assert [int(folder.name.removeprefix("step-")) for folder in folders] == list(range(EVERY, last + 1, EVERY))
    for folder in folders:
        checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True)
        assert checked.returncode == 0, checked
    assert {path.name for folder in folders[:-2] for path in folder.iterdir()} == {LORA, "SHA256SUMS"}
    assert Run(run).checkpoints() == folders[-2:]
    # The average of the weights, under diffusers' names, with alpha and its step.
    for folder in folders[-2:]:
        shadow = read_state(folder / "state.safetensors")["ema"]["shadow_params"]
        names, own = [*load_file(folder / "weights.safetensors")], load_file(folder / "weights.safetensors")
        exported = load_file(folder / LORA)
        assert sorted(float(t.double().sum()) for t in exported.values()) == sorted(
            float(t.double().sum()) for t in shadow
        )
        assert len(names) == len(exported) == len(shadow)
        assert any(not torch.equal(a, b) for a, b in zip(own.values(), shadow, strict=True))
        with safe_open(folder / LORA, "pt") as file:
            said = file.metadata()
        assert said["ss_steps"] == str(int(folder.name.removeprefix("step-")))
        assert json.loads(said["lora_adapter_metadata"])["unet.lora_alpha"] == 8
    exports = {step: (run / f"checkpoints/step-{step:08d}" / LORA).read_bytes() for step in (best, last)}
    assert (run / "best" / LORA).read_bytes() == exports[best] != exports[last] == (run / LORA).read_bytes()


@pytest.mark.slow
def test_the_same_command_again_stays_there_and_with_more_patience_it_goes_on(early, dataset, train, tmp_path):
    run = shutil.copytree(early[0], tmp_path / "run")
    again = [*FLAGS, "--data.dataset", dataset, "--run.output_dir", run]
    assert train(*again).returncode == 0
    assert leaves(run) == leaves(early[0])
    last = max(held_out(run))
    result = train(*again, "--run.early_stopping_patience", 30, "--run.max_train_steps", last + 2)
    assert result.returncode == 0, result.stderr[-3000:]
    assert max(held_out(run)) == last + 2
    assert [line["step"] for line in metrics(run) if "loss" in line] == list(range(1, last + 3))
    assert f"{last + 2} of {last + 2}" in (run / "report.html").read_text("utf-8")


def killed(command: list[object], run: Path, is_time) -> None:
    """Start the command, and kill it once it is time, unless it has come to its end."""
    with run.with_suffix(".log").open("w") as log:
        training = subprocess.Popen(
            [*map(str, command)], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log
        )
    limit = time.monotonic() + 300
    while training.poll() is None and not is_time():
        assert time.monotonic() < limit
        time.sleep(0.001)
    training.send_signal(signal.SIGKILL)
    assert training.wait() in (0, -signal.SIGKILL), run.with_suffix(".log").read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_has_exports_and_ends_as_one_that_is_not(early, dataset, run_program, tmp_path):
    run, best = tmp_path / "run", json.loads((early[0] / "best/best.json").read_text())["step"]
    command = [sys.executable, "train_texture.py", "--data.resolution", 64, "--validation.num_images", 0]
    command += ["--run.report_to", "none", *FLAGS, "--data.dataset", dataset, "--run.output_dir", run]
    # While a checkpoint is rotated or one is written, and once the best is there, whose line may not be yet.
    killed(command, run, lambda: (run / f"checkpoints/step-{3 * EVERY:08d}").exists())
    program = Path(sys.executable).with_name("texdiff")
    exported = run_program(program, "export", run, "--output", tmp_path / "newest.safetensors")
    assert exported.returncode == 0, exported.stderr
    newest = sorted((run / "checkpoints").glob(f"step-*/{LORA}"))[-1].parent
    steps = int(newest.name.removeprefix("step-"))
    assert exported.stdout.splitlines()[0] == f"{run}: not finished; takes what it had after {steps} steps, {newest}"
    killed(command, run, lambda: Run(run).best().get("step") == best)
    result = run_program(*command, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "continues from" in result.stdout
    assert leaves(run) == leaves(early[0])


@pytest.mark.slow
def test_two_ranks_stop_together(early, dataset, run_program, tmp_path):
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "train_texture.py"]
    flags = ["--data.resolution", 64, "--validation.num_images", 0, "--run.report_to", "none", *FLAGS]
    flags += ["--run.train_batch_size", 1]
    folders = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = run_program(*ranks, *flags, *folders, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr[-3000:]
    losses = held_out(tmp_path / "run")
    best = json.loads((tmp_path / "run/best/best.json").read_text())["step"]
    assert max(losses) == best + PATIENCE * EVERY
    assert f"stops after step {max(losses)}: " in result.stdout
    assert (tmp_path / "run" / LORA).is_file()


def test_pipelines_at_checkpoints_where_they_are_asked_for(dataset, train, tmp_path):
    run = tmp_path / "run"
    flags = ["--model.train", "full", "--run.max_train_steps", 2, "--run.checkpointing_steps", 1]
    flags += ["--run.checkpoints_total_limit", 1, "--run.train_batch_size", 1, "--data.dataset", dataset]
    wanted = ["--run.export_checkpoints", "true", "--run.keep_best", "true", "--validation.every", 1]
    result = train(*flags, *wanted, "--run.output_dir", run)
    assert result.returncode == 0, result.stderr[-3000:]
    first, last = run / "checkpoints/step-00000001", run / "checkpoints/step-00000002"
    assert {path.name for path in first.iterdir()} >= {"model_index.json", "unet", "vae", "SHA256SUMS"}
    assert not (first / "weights.safetensors").exists()
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (last / weights).read_bytes() == (run / weights).read_bytes() != (first / weights).read_bytes()
    best = f"checkpoints/step-{Run(run).best()['step']:08d}"
    assert (run / "best" / weights).read_bytes() == (run / best / weights).read_bytes()
    (run / "model_index.json").unlink()  # as in a run that was stopped
    assert resolve_base(str(run)) == str(last)


@pytest.mark.parametrize(
    ("settings", "key"), [({"keep_best": True}, "keep_best true"), ({"early_stopping_patience": 2}, "early_stopping")]
)
def test_without_held_out_textures_there_is_no_best(settings, key, make_dataset, tmp_path):
    data = DataConfig(dataset=str(make_dataset(tmp_path, [0.5, 1.0])))
    said = rf"^run\.{key}.*holds out no textures to compare losses on; make it with texdiff prepare "
    with pytest.raises(InputError, match=said):
        read_splits(TrainingConfig(data=data, run=RunConfig(**settings)), Parallel(cpu=True))
    assert len(read_splits(TrainingConfig(data=data), Parallel(cpu=True))[0]) == 2
