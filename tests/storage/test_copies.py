import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.errors import InputError
from texdiff.models.exports import local_run
from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.find import lora_file
from texdiff.storage import copies
from texdiff.storage.copies import LocalCopies


@pytest.fixture(autouse=True)
def clean() -> None:
    FlakyFileSystem.clean()


def downloads() -> list[str]:
    return [path for function, path in FlakyFileSystem.calls if function == "get_file"]


def test_a_file_is_downloaded_once_until_it_changes(tmp_path):
    storage.write("flaky://b/x.png", b"one")
    local = LocalCopies(tmp_path, 1000)
    with ThreadPoolExecutor(4) as threads:
        assert {*threads.map(lambda _: local.read("flaky://b/x.png", "1"), range(20))} == {b"one"}
    before = len(downloads())
    assert LocalCopies(tmp_path, 1000).read("flaky://b/x.png", "1") == b"one"
    assert len(downloads()) == before
    storage.write("flaky://b/x.png", b"two")
    assert local.read("flaky://b/x.png", "2") == b"two"
    assert local.path("flaky://b/x.png", "2").suffix == ".png"


def test_those_unused_for_longest_go(tmp_path, monkeypatch):
    for number in range(7):
        storage.write(f"flaky://b/{number}", bytes([number]) * 100)
    monkeypatch.setattr(copies, "GRACE", 0.0)
    local = LocalCopies(tmp_path, 450)
    for number in range(4):
        path = local.path(f"flaky://b/{number}", "")
        os.utime(path, (1000 + number, 1000 + number))
    assert local.read("flaky://b/0", "") == bytes(100)  # now it is the newest
    for number in range(4, 7):
        local.path(f"flaky://b/{number}", "")
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 450
    assert local.place("flaky://b/0", "").exists()
    assert not any(local.place(f"flaky://b/{number}", "").exists() for number in (1, 2, 3))
    assert local.read("flaky://b/1", "") == bytes([1]) * 100


def test_what_is_in_use_stays_beyond_the_bound(tmp_path):
    local = LocalCopies(tmp_path, 50)
    for number in range(3):
        storage.write(f"flaky://b/{number}", bytes(100))
        local.path(f"flaky://b/{number}", "")
    assert len([*tmp_path.glob("*/*")]) == 3


def test_a_run_is_fetched_without_what_training_needs_and_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    copies.local_copies.cache_clear()
    step = "flaky://b/run/checkpoints/step-00000002"
    for name in ("state.safetensors", "weights.safetensors", "progress.json", LORA_FILE):
        storage.write(f"{step}/{name}", b"2")
    storage.write("flaky://b/run/config.yaml", b"a: 1")
    folder = local_run("flaky://b/run")
    assert lora_file(folder) == folder / "checkpoints/step-00000002" / LORA_FILE
    assert {path.name for path in folder.rglob("*.*")} == {"config.yaml", LORA_FILE}
    storage.remove(f"{step}/{LORA_FILE}")
    storage.write(f"flaky://b/run/{LORA_FILE}", b"3")
    before = len(downloads())
    assert lora_file(local_run("flaky://b/run/")).read_bytes() == b"3"
    assert len(downloads()) == before + 1
    assert not (folder / "checkpoints/step-00000002" / LORA_FILE).exists()
    assert local_run(f"flaky://b/run/{LORA_FILE}").read_bytes() == b"3"
    assert local_run(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="flaky://b/none: is not there"):
        local_run("flaky://b/none")
    copies.local_copies.cache_clear()
