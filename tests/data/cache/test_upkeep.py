"""`texdiff cache`: what it shows, and that it deletes what is old, and nothing that is used or not texdiff's."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from texdiff.cli import main
from texdiff.data.cache.keys import as_keys, key_of
from texdiff.data.cache.store import ArrayStore
from texdiff.data.cache.upkeep import find_items, prune

DAY = 24 * 3600
STORE = f"textures-{16 * 'a'}"


def write_shard(folder, number, days, **made_for):
    """A shard of one entry, last used so many days ago."""
    store = ArrayStore(folder, made_for)
    store.add(key_of(number), {"mean": np.full(1000, number, np.float32)})
    store.flush()
    (path,) = (path for path in folder.iterdir() if path.stat().st_mtime > time.time() - 1)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def test_old_shards_go_and_nothing_else(tmp_path, capsys):
    old = write_shard(tmp_path / STORE, 1, days=40, dataset="outputs/old", base="nano")
    new = write_shard(tmp_path / STORE, 2, days=2, dataset="outputs/new", base="nano")
    strangers = [tmp_path / "a.arrow", tmp_path / STORE / "notes.txt", tmp_path / "textures" / f"{32 * 'a'}.arrow"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (0, 0))
    assert main(["cache", "--cache_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert old.exists()
    shown = [line.split()[3:] for line in said[2:4]]
    assert shown == [["textures", f"outputs/{age},", "nano"] for age in ("old", "new")]
    assert said[4].endswith("in all")
    assert main(["cache", "--cache_dir", str(tmp_path), "--prune", "30"]) == 0
    assert not old.exists()
    assert new.exists()
    assert all(path.read_text() == "mine" for path in strangers)


def test_what_is_found_again_is_used_again(tmp_path):
    shards = [write_shard(tmp_path / STORE, number, days=40) for number in (1, 2)]
    store = ArrayStore(tmp_path / STORE)
    store.load()
    store.mark_used(store.find(as_keys([key_of(2), key_of("none")])))
    del store
    prune(find_items(tmp_path, everything=False), days=30)
    assert [path.exists() for path in shards] == [False, True]


def test_what_a_process_holds_is_left_alone(tmp_path, capsys):
    shard = write_shard(tmp_path / STORE, 1, days=40)
    program = (
        "from pathlib import Path; from texdiff.data.cache.store import ArrayStore\n"
        f"store = ArrayStore(Path({str(shard.parent)!r})); store.load(); print(flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)
    process.stdout.readline()
    assert main(["cache", "--cache_dir", str(tmp_path), "--prune", "0"]) == 0
    assert "unknown  (in use, not pruned)" in capsys.readouterr().out
    assert shard.exists()
    process.communicate(b"\n")
    assert main(["cache", "--cache_dir", str(tmp_path), "--prune", "0"]) == 0
    assert not shard.exists()


@pytest.mark.slow
def test_the_users_cache_after_a_run(dataset, train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 1]
    assert train(*flags).returncode == 0
    assert main(["cache", "--prune", "1"]) == 0
    said = [line.split()[3:] for line in capsys.readouterr().out.splitlines()]
    for what in ("textures", "captions", "masks", "files", "models"):
        assert [what, f"{dataset},", "nano"] in said
    assert ["base", "nano"] in said
    assert main(["cache", "--prune", "0"]) == 0
    assert not [path for path in (tmp_path / "cache/texdiff").rglob("*") if path.is_file()]
    assert train(*flags, "--run.resume", "never").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--prune", "-1"], "--prune must be at least 0 days"), (["--cache_dir", "no"], "no: no such")],
)
def test_wrong_arguments(arguments, said, capsys):
    assert main(["cache", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"texdiff: error: {said}")
