import errno
from pathlib import Path

import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.errors import InputError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyFileSystem.clean()
    storage._Said.failing = False
    monkeypatch.setattr(storage, "WAITS", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "name", ["s3://bucket/data", "hf://datasets/a/b", "gs://b", "memory://x", "S3://b", "s3:/b/x", "s3://"]
)
def test_addresses_are_told_from_paths_and_ids(name):
    assert storage.is_address(name)


@pytest.mark.parametrize("name", ["owner/name", "C:\\data", "c://data", "data/x", "/data", "", "a:b", "x.toml", "//s3"])
def test_paths_and_ids_are_no_addresses(name):
    assert not storage.is_address(name)


def test_files_are_written_listed_read_and_deleted(tmp_path):
    (tmp_path / "ä [1]").mkdir()
    for name in ("b.txt", "ä [1]/a#?.bin"):
        (tmp_path / name).write_bytes(name.encode())
    storage.upload_files(tmp_path, ["b.txt", "ä [1]/a#?.bin"], "flaky://bucket/folder/")
    storage.write("flaky://bucket/folder-2/c", b"of another folder")
    found = storage.find("flaky://bucket/folder")
    assert {name: of.size for name, of in found.items()} == {"b.txt": 5, "ä [1]/a#?.bin": 14}
    assert storage.find("flaky://bucket/none") == {}
    storage.download_files("flaky://bucket/folder", [*found], tmp_path / "again")
    assert (tmp_path / "again" / "ä [1]" / "a#?.bin").read_text("utf-8") == "ä [1]/a#?.bin"
    assert storage.read("flaky://bucket/folder/b.txt") == b"b.txt"
    storage.write("flaky://bucket/folder/b.txt", b"other")
    assert storage.find("flaky://bucket/folder")["b.txt"].stamp != found["b.txt"].stamp
    for _ in range(2):  # also where it has gone already
        storage.remove("flaky://bucket/folder/b.txt")
    assert [*storage.find("flaky://bucket/folder")] == ["ä [1]/a#?.bin"]


def test_a_connection_that_comes_back_is_mentioned_once(tmp_path, capsys):
    storage.write("flaky://b/x", b"1")
    FlakyFileSystem.cut(failures=3)
    assert storage.read("flaky://b/x") == b"1"
    said = capsys.readouterr().err
    assert said == "flaky://b/x: no answer (connection reset by peer); trying again for a while\n"
    FlakyFileSystem.cut(failures=1)
    assert storage.find("flaky://b/x").keys() == {""}
    assert "trying again" in capsys.readouterr().err  # it had answered in between


def test_a_connection_that_stays_away_is_one_line_and_leaves_nothing(tmp_path, capsys):
    storage.write("flaky://b/x", b"1")
    FlakyFileSystem.cut()
    with pytest.raises(storage.ConnectionBroken, match=r"flaky://b/x: the connection is broken .*reset by peer"):
        storage.download("flaky://b/x", tmp_path / "x")
    assert [*tmp_path.iterdir()] == []
    assert len(FlakyFileSystem.calls) - 1 == 1 + len(storage.WAITS)


def test_what_cannot_pass_is_not_tried_again(tmp_path, capsys):
    with pytest.raises(InputError, match=r"memory://b/none: is not there .* check the name of the bucket"):
        storage.read("memory://b/none")
    with pytest.raises(InputError, match=r"s4://b: no storage of a kind that fsspec knows"):
        storage.find("s4://b")
    with pytest.raises(InputError, match=r"adl://b: needs a package that is not installed .*pip install adlfs"):
        storage.find("adl://b")
    for incomplete in ("s3://", "s3:/bucket/x"):
        with pytest.raises(
            InputError, match=rf"^{incomplete}: is not a complete address; give one such as s3://bucket"
        ):
            storage.find(incomplete)
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "none", "memory://b/x")
    with pytest.raises(InputError, match=r"its name leads out of its folder"):
        storage.download_files("memory://b", ["../x"], tmp_path / "a")
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_broken_connection(tmp_path, monkeypatch):
    storage.write("flaky://b/x", b"1")

    def full(self, rpath, lpath, *args, **kwargs):
        Path(lpath).write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device", lpath)

    monkeypatch.setattr(FlakyFileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space left"):
        storage.download("flaky://b/x", tmp_path / "x")
    assert [*tmp_path.iterdir()] == []
