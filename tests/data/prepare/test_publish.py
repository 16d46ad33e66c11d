"""Datasets that go elsewhere: to the hub, and to storage."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.cli import main
from texdiff.data.prepare.publish import StoredOutput
from texdiff.errors import InputError


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory, write_mesh: Callable, draw: Callable) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number in range(4):
        write_mesh(folder / f"cup{number}.glb", draw(number))
        (folder / f"cup{number}.txt").write_text(f"cup {number}")
    return folder


def test_the_hub_gets_the_folder_or_says_why_not(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import huggingface_hub

    asked = []

    def create(self: object, repository: str, **options: object) -> str:
        asked.append((repository, options))
        return f"hub/{repository}"

    def upload(self: object, *, folder_path: Path, **options: object) -> None:
        if "refused" in str(options["repo_id"]):
            raise OSError("403\nForbidden")
        asked.append((str(folder_path), options))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    command = ["prepare", str(meshes / "cup0.glb"), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--push_to_hub", "me/cups"]) == 0
    assert asked == [
        ("me/cups", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        (str(tmp_path / "out"), {"repo_type": "dataset", "repo_id": "me/cups", "ignore_patterns": ["meshes.json"]}),
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "hub/me/cups"
    assert main([*command, "--push_to_hub", "me/refused"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("texdiff: error: --push_to_hub me/refused: 403 Forbidden; the dataset itself is complete")
    assert (tmp_path / "out" / "train" / "metadata.jsonl").is_file()


@pytest.mark.slow
def test_storage_gets_the_dataset_whatever_breaks_off(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    FlakyFileSystem.clean()
    monkeypatch.setattr(storage, "WAITS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["prepare", str(meshes), "--workers", "1", "--validation_fraction", "0.3", "--output"]
    assert main([*command, str(tmp_path / "cups")]) == 0
    capsys.readouterr()
    original, sent = FlakyFileSystem.put_file, []

    def third_breaks(self: FlakyFileSystem, lpath: str, rpath: str, **options: object) -> None:
        if len(sent) == 3:
            raise ConnectionError("connection reset by peer")
        sent.append(rpath)
        original(self, lpath, rpath, **options)

    monkeypatch.setattr(FlakyFileSystem, "put_file", third_breaks)
    assert main([*command, "flaky://bucket/cups"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the connection is broken" in said
    assert f"complete in {tmp_path}/cache/texdiff/prepared" in said
    assert not any(name.endswith(("README.md", "metadata.jsonl")) for name in storage.find("flaky://bucket/cups"))
    monkeypatch.setattr(FlakyFileSystem, "put_file", original)
    FlakyFileSystem.calls.clear()
    assert main([*command, "flaky://bucket/cups"]) == 0
    assert capsys.readouterr().out.endswith("; sent to flaky://bucket/cups\n")
    put = [path for function, path in FlakyFileSystem.calls if function == "put_file"]
    assert not {*put} & {*sent}
    assert [path.rpartition("cups/")[2] for path in put[-3:]] == [
        "validation/metadata.jsonl",
        "train/metadata.jsonl",
        "README.md",
    ]
    there = {name: storage.read(f"flaky://bucket/cups/{name}") for name in storage.find("flaky://bucket/cups")}
    here = {path.relative_to(tmp_path / "cups").as_posix(): path for path in (tmp_path / "cups").rglob("*.*")}
    assert there.keys() - {".writer"} == here.keys() - {"meshes.json"}
    assert all(there[name] == here[name].read_bytes() for name in there.keys() & here.keys())


def test_other_things_in_storage_stay(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyFileSystem.clean()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage.write("flaky://bucket/photos/README.md", b"mine")
    with pytest.raises(InputError, match="flaky://bucket/photos: holds something else than a dataset written by"):
        StoredOutput("flaky://bucket/photos")
