"""The hub."""

from collections.abc import Callable
from pathlib import Path

import pytest

from texdiff.cli import main


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
