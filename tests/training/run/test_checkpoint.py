"""Checkpoints: whole or absent; damage is found, the last good one stays, what would train something else is said."""

import json
import os
import resource
import shutil
import subprocess
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.files import atomic_entries, atomic_folder
from texdiff.training.ema import Ema
from texdiff.training.optimizer import make_lr_scheduler, make_optimizer
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import MAY_CHANGE, Checkpointer, content_of, newest_good
from texdiff.training.run.metrics_log import MetricsLog
from texdiff.training.run.state_file import read_state, write_state

CONFIG = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="none"))


@pytest.fixture(scope="module")
def parallel():
    yield Parallel(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def a_run(parallel, run, config=CONFIG, dataset="content", effective_batch=4, width=3):
    """A small model in the middle of its training, and the state of that run."""
    layer = torch.nn.Linear(width, 2)
    parameters = dict(layer.named_parameters())
    optimizer = make_optimizer(config.optim, parameters.values())
    schedule = make_lr_scheduler(config.optim, optimizer, config.run.max_train_steps)
    ema = Ema(parameters.values(), 0.9)
    log = MetricsLog(Run(run, newest_good(Run(run))), parallel, effective_batch, config)
    state = Checkpointer(log.run, log, config, dataset, parameters, optimizer, schedule, ema)

    def step():
        layer(torch.ones(1, width)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step()

    return SimpleNamespace(layer=layer, state=state, step=step, ema=ema)


def saved(parallel, run: Path, steps=(1, 2, 3), config=CONFIG):
    one = a_run(parallel, run, config)
    for number in steps:
        one.step()
        one.state.save(number)
    return one


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_what_is_loaded_goes_on_as_what_was_saved(name, parallel, tmp_path):
    config = replace(CONFIG, optim=OptimConfig(name=name, lr_scheduler="cosine", lr_warmup_steps=2))
    one = saved(parallel, tmp_path, config=config)
    other = a_run(parallel, tmp_path, config)
    assert other.state.resume() == 3
    for _ in range(3):
        one.step()
        other.step()
    assert torch.equal(one.layer.weight, other.layer.weight)
    assert all(
        torch.equal(a, b) for a, b in zip(one.ema.model.shadow_params, other.ema.model.shadow_params, strict=True)
    )


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = [torch.zeros(()), torch.arange(6).view(2, 3), torch.ones(0), torch.tensor([1.5]).bfloat16()]
leaves |= st.sampled_from(tensors).map(torch.clone)
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.text() | st.integers(), nested))
def test_nested_state_comes_back_as_it_was(state):
    with tempfile.NamedTemporaryFile() as file:
        write_state(state, Path(file.name))
        assert equal(state, read_state(Path(file.name)))


def test_what_could_carry_code_is_not_kept(tmp_path):
    with pytest.raises(TypeError, match=r"\.a\.0: a function cannot be kept"):
        write_state({"a": [lambda: None]}, tmp_path / "state")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "progress.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
def test_damage_is_found_and_the_one_before_is_used(file, damage, parallel, tmp_path, capsys):
    saved(parallel, tmp_path)
    damage(tmp_path / "checkpoints/step-00000003" / file)
    good = newest_good(Run(tmp_path))
    assert good == tmp_path / "checkpoints/step-00000002"
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-00000003 is damaged" in line
    assert "continuing from" in line
    assert "step-00000002" in line
    # The damaged one goes once a good one is written, and never the last good one before that.
    one = a_run(parallel, tmp_path, replace(CONFIG, run=RunConfig(checkpoints_total_limit=1, report_to="none")))
    one.state.resume()
    assert (tmp_path / "checkpoints/step-00000002").is_dir()
    one.step()
    one.state.save(4)
    assert [path.name for path in Run(tmp_path).checkpoints()] == ["step-00000004"]
    assert newest_good(Run(tmp_path)).name == "step-00000004"


def test_where_every_checkpoint_is_damaged_the_run_is_not_begun_anew_without_a_word(parallel, tmp_path):
    saved(parallel, tmp_path)
    for checkpoint in Run(tmp_path).checkpoints():
        flip(checkpoint / "weights.safetensors")
    with pytest.raises(InputError, match=r"step-00000003 is damaged .*step-00000002 is damaged .*--run.resume never"):
        newest_good(Run(tmp_path))


def test_rotation_and_what_killed_processes_left(parallel, tmp_path):
    for name in (".step-00000002.tmp", ".step-00000001.old"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_good(Run(tmp_path)) is None
    saved(parallel, tmp_path, steps=(1, 2, 3, 4))
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step-00000003", "step-00000004"]
    checked = subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"],
        cwd=tmp_path / "checkpoints/step-00000004",
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked


def test_of_checkpoints_that_are_too_old_the_exports_stay(parallel, tmp_path):
    one = a_run(parallel, tmp_path)
    one.state.export = SimpleNamespace(checkpoint=lambda folder, step: (folder / "export").write_text(str(step)))
    for step in (1, 2, 3):
        one.step()
        one.state.save(step)
    alone = Run(tmp_path).checkpoint_folder(1)
    assert sorted(os.listdir(alone)) == ["SHA256SUMS", "export"]
    assert Run(tmp_path).checkpoints() == [Run(tmp_path).checkpoint_folder(step) for step in (2, 3)]
    # Killed in the midst of it: the list of sums had been replaced, or was about to be, and the files not yet deleted.
    for name in ("weights.safetensors", "progress.json", ".SHA256SUMS.12.tmp"):
        (alone / name).write_text("left")
    assert newest_good(Run(tmp_path)).name == "step-00000003"
    again = a_run(parallel, tmp_path)
    assert again.state.resume() == 3
    assert sorted(os.listdir(alone)) == ["SHA256SUMS", "export"]
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=alone, capture_output=True)
    assert checked.stdout == b"export: OK\n"
    # Where only exports are left there is nothing to continue from.
    for checkpoint in Run(tmp_path).checkpoints():
        shutil.rmtree(checkpoint)
    assert newest_good(Run(tmp_path)) is None


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "other" if isinstance(value, str) else ["other"] if isinstance(value, list) else 1


def test_every_key_that_changes_the_result_is_refused_and_no_other(parallel, tmp_path):
    one = saved(parallel, tmp_path)
    before = one.state.settings
    for section in CONFIG.to_dict():
        for key, value in CONFIG.to_dict()[section].items():
            one.state.settings = before | {section: before[section] | {key: changed(value)}}
            if key in MAY_CHANGE.get(section, ()):
                assert one.state.load(newest_good(Run(tmp_path))) == 3
            else:
                with pytest.raises(InputError, match=rf"other settings \({section}\.{key}: "):
                    one.state.load(newest_good(Run(tmp_path)))
    known = {f"{section}.{key}" for section in CONFIG.to_dict() for key in CONFIG.to_dict()[section]}
    assert {f"{section}.{key}" for section, keys in MAY_CHANGE.items() for key in keys} <= known


def test_a_key_that_has_another_name_now_is_the_same_key(parallel, tmp_path):
    """A checkpoint of a version that knew it by the old one."""
    one = saved(parallel, tmp_path)
    optim = dict(one.state.settings["optim"])
    now = one.state.settings
    one.state.settings = now | {"optim": {"in_backward": optim.pop("fused_backward_pass")} | optim}
    one.state.save(4)
    one.state.settings = now
    assert one.state.load(newest_good(Run(tmp_path))) == 4
    one.state.settings = now | {"optim": optim | {"fused_backward_pass": True}}
    with pytest.raises(InputError, match=r"optim\.fused_backward_pass: False, now True"):
        one.state.load(newest_good(Run(tmp_path)))


def test_a_key_that_is_newer_than_a_checkpoint_was_its_default(parallel, tmp_path):
    one = saved(parallel, tmp_path)
    now = one.state.settings
    data = {key: value for key, value in now["data"].items() if key != "max_token_length"}
    one.state.settings = now | {"data": data}
    one.state.save(4)
    one.state.settings = now
    assert one.state.load(newest_good(Run(tmp_path))) == 4
    one.state.settings = now | {"data": data | {"max_token_length": 150}}
    with pytest.raises(InputError, match=r"data\.max_token_length: 77, now 150"):
        one.state.load(newest_good(Run(tmp_path)))


def test_a_base_may_move_as_long_as_it_is_the_same(parallel, base, tmp_path):
    first = shutil.copytree(base, tmp_path / "first")
    config = replace(CONFIG, model=ModelConfig(pretrained_model_name_or_path=str(first)))
    saved(parallel, tmp_path / "run", config=config)
    checkpoint = newest_good(Run(tmp_path / "run"))
    second = first.rename(tmp_path / "second")
    moved = replace(CONFIG, model=ModelConfig(pretrained_model_name_or_path=str(second)))
    one = a_run(parallel, tmp_path / "run", moved)
    assert one.state.load(checkpoint) == 3
    one.step()
    one.state.save(4)
    again = a_run(parallel, tmp_path / "run", moved)
    assert again.state.load(newest_good(Run(tmp_path / "run"))) == 4
    # Another base there, none there, and a checkpoint of before bases were looked at.
    refused = "other settings .model.pretrained_model_name_or_path: "
    with (second / "unet/config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match=refused):
        one.state.load(checkpoint)
    with pytest.raises(InputError, match=refused):
        a_run(parallel, tmp_path / "run").state.load(checkpoint)
    shutil.copytree(base, second, dirs_exist_ok=True)
    assert one.state.load(checkpoint) == 3
    progress = json.loads((checkpoint / "progress.json").read_text())
    assert progress.pop("base")
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(InputError, match=refused):
        one.state.load(checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "another"}, "dataset.content"),
        ({"effective_batch": 8}, "effective batch: 4, now 8"),
        ({"width": 5}, "does not fit this model"),
        ({"config": replace(CONFIG, optim=OptimConfig(lr_scheduler="linear"))}, "optim.lr_scheduler"),
    ],
)
def test_another_dataset_batch_or_model_is_refused(change, said, parallel, tmp_path):
    saved(parallel, tmp_path)
    with pytest.raises(InputError, match=said):
        a_run(parallel, tmp_path, **change).state.load(newest_good(Run(tmp_path)))


def test_a_schedule_that_is_stretched_over_the_run_fixes_its_length(parallel, tmp_path):
    cosine = OptimConfig(lr_scheduler="cosine")
    saved(parallel, tmp_path, config=replace(CONFIG, optim=cosine))
    longer = replace(CONFIG, optim=cosine, run=RunConfig(max_train_steps=2000, report_to="none"))
    with pytest.raises(InputError, match=r"run\.max_train_steps: 1000, now 2000"):
        a_run(parallel, tmp_path, longer).state.load(newest_good(Run(tmp_path)))


def test_a_folder_is_whole_or_as_before(tmp_path):
    with atomic_folder(tmp_path / "one") as aside:
        (aside / "file").write_text("first")
    with pytest.raises(RuntimeError, match="in between"), atomic_folder(tmp_path / "one") as aside:  # noqa: PT012
        (aside / "file").write_text("second")
        raise RuntimeError("in between")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one/file").read_text() == "first"
    (tmp_path / "unet").mkdir()
    with atomic_entries(tmp_path, last="index") as aside:
        (aside / "unet").mkdir()
        (aside / "unet/weights").write_text("new")
        (aside / "index").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "one", "unet"]
    assert (tmp_path / "unet/weights").read_text() == "new"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_checkpoints_before(small_disk, parallel):
    one = saved(parallel, small_disk, steps=(1, 2))
    block = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(b"0" * (block.f_bavail * block.f_frsize - 4096))
    with pytest.raises(OSError, match="No space left on device"):
        one.state.save(3)
    assert [path.name for path in Run(small_disk).checkpoints()] == ["step-00000001", "step-00000002"]
    assert newest_good(Run(small_disk)).name == "step-00000002"
    assert not list((small_disk / "checkpoints").glob(".*"))
    (small_disk / "other").unlink()
    one.state.save(3)
    assert newest_good(Run(small_disk)).name == "step-00000003"


def test_a_limit_on_file_sizes_too(parallel, tmp_path):
    one = saved(parallel, tmp_path, steps=(1, 2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            one.state.save(3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest_good(Run(tmp_path)).name == "step-00000002"


def test_the_settings_have_no_place_for_a_secret():
    names = {field.name for section in fields(CONFIG) for field in fields(getattr(CONFIG, section.name))}
    names -= {"max_token_length"}
    assert not {name for name in names if "token" in name or "key" in name or "password" in name}


def test_a_run_that_did_more_steps_continues_from_the_last_one_that_is_asked_for_or_not_at_all(parallel, tmp_path):
    saved(parallel, tmp_path, steps=(1, 2, 4))
    (tmp_path / "config.yaml").write_text("{}")

    def chosen(steps):
        return Run.choose(str(tmp_path), "auto", steps, parallel).resume_from

    assert [chosen(steps) for steps in (2, 4, 9)] == [Run(tmp_path).checkpoint_folder(step) for step in (2, 4, 4)]
    with pytest.raises(InputError, match=r"max_train_steps 3: .* has done 4 and has no good checkpoint of step 3 \("):
        chosen(3)
    (Run(tmp_path).checkpoint_folder(2) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="has done 4 and has no good checkpoint of step 2") as refused:
        chosen(2)
    assert len(str(refused.value).splitlines()) == 1
    shutil.rmtree(Run(tmp_path).checkpoints_folder)
    assert chosen(9) is None  # nothing was finished, so nothing is lost


@pytest.mark.parametrize("export", ["pytorch_lora_weights.safetensors", "model_index.json"])
def test_a_finished_run_without_checkpoints_is_not_overwritten(parallel, export, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / export).write_text("weights")
    with pytest.raises(InputError, match=r"a finished run without checkpoints.*--run\.resume never or another"):
        Run.choose(str(tmp_path), "auto", 9, parallel)
    assert Run.choose(str(tmp_path), "never", 9, parallel).folder == tmp_path.with_name(f"{tmp_path.name}-2")


def test_content_is_that_of_the_files_and_not_of_the_path(base: Path, tmp_path: Path) -> None:
    before = content_of(str(base))
    moved = shutil.copytree(base, tmp_path / "moved")
    for path in moved.rglob("*"):
        os.utime(path, (1, 1))
    (moved / "samples").mkdir()
    (moved / "samples/of a run.png").touch()
    assert content_of(str(moved)) == before
    config = moved / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    assert content_of(str(moved)) not in (None, before)
    assert content_of("nano") is content_of("owner/name") is content_of(str(tmp_path)) is None
