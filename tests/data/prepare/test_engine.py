"""`prepare` in tasks: the same bytes as at once, whatever ends a task."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from texdiff.data import prepare
from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.engine import BuildEntries, ReadAssets

OPTIONS = {"resolution": 64, "workers": 1}


@pytest.fixture
def meshes(tmp_path: Path, write_mesh: Callable, draw: Callable) -> Path:
    """Five meshes, two of one texture, and one that cannot be read."""
    for number, seed in enumerate((1, 2, 3, 3, 4)):
        write_mesh(tmp_path / "in" / f"{number}.glb", draw(seed))
    (tmp_path / "in" / "broken.glb").write_bytes(b"glTF")
    return tmp_path / "in"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_tasks(meshes: Path, output: Path, count: int, step: type = ReadAssets) -> None:
    for rank in range(count):
        step(sources=[str(meshes)], output=str(output), **OPTIONS)(None, rank, count)


@pytest.mark.slow
def test_tasks_change_no_byte_and_leave_nothing_to_do(meshes: Path, tmp_path: Path, monkeypatch) -> None:
    prepare_dataset([str(meshes)], tmp_path / "once" / "dataset", **OPTIONS)
    output = tmp_path / "tasks" / "dataset"
    in_tasks(meshes, output, 3)
    assert len(list((tmp_path / "tasks" / "dataset.partial" / "assets").iterdir())) == 6
    in_tasks(meshes, output, 2, BuildEntries)
    assert len(list((tmp_path / "tasks" / "dataset.partial" / "entries").iterdir())) == 4
    done = sorted(path.stat().st_mtime_ns for path in output.parent.rglob("*.json"))
    work = output.with_name("dataset.partial")
    monkeypatch.setattr(prepare, "put_in_place", lambda folder, _: shutil.copytree(folder, output))
    monkeypatch.setattr(prepare.shutil, "rmtree", lambda *_, **__: None)
    prepare_dataset([str(meshes)], output, **OPTIONS)
    assert bytes_of(output) == bytes_of(tmp_path / "once" / "dataset")
    left = [path for path in work.rglob("*.json") if "dataset" not in path.relative_to(work).parts]
    assert sorted(path.stat().st_mtime_ns for path in left) == done


SCRIPT = """
import sys
from datatrove.executor import LocalPipelineExecutor
from texdiff.data.prepare.engine import BuildEntries, ReadAssets

if __name__ == "__main__":
    source, output = sys.argv[1:]
    for step in (ReadAssets, BuildEntries):
        LocalPipelineExecutor(
            [step(sources=[source], output=output, resolution=64)],
            tasks=4,
            workers=2,
            logging_dir=f"{output}.logs/{step.__name__}",
        ).run()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="needs pip install '.[engine]'")
def test_an_engine_that_is_killed_continues(meshes: Path, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "once" / "dataset", **OPTIONS)
    output = tmp_path / "tasks" / "dataset"
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, "run.py", str(meshes), str(output)]
    killed = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    read = output.with_name("dataset.partial") / "assets"
    until = time.monotonic() + 300
    while time.monotonic() < until and not list(read.glob("*/found.json")):
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    assert list(read.glob("*/found.json"))
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    found = [json.loads(path.read_bytes()) for path in read.glob("*/found.json")]
    assert sum(len(one["textures"]) for one in found) == 5
    prepare_dataset([str(meshes)], output, **OPTIONS)
    assert bytes_of(output) == bytes_of(tmp_path / "once" / "dataset")
