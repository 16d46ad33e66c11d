"""Checkpoints: whole or absent; damage is found, the last good one stays, what would train something else is said."""

import os
import resource
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_run import CONFIG, a_run, saved

from texdiff.config import OptimConfig, RunConfig
from texdiff.errors import InputError
from texdiff.files import atomic_entries, atomic_folder
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import content_of, newest_good


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
    one.state.export = SimpleNamespace(
        trainable=SimpleNamespace(about={}),
        checkpoint=lambda: lambda folder, step: (folder / "export").write_text(str(step)),
    )
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
