"""`texdiff doctor`: what it says of this machine is so, and what is wrong it says by name."""

import re
from pathlib import Path

import psutil
import pytest
import torch

from texdiff.cli import main
from texdiff.cli.doctor import ON_CPU, ON_GPU


def test_one_screen_about_this_machine(capsys: pytest.CaptureFixture) -> None:
    main(["doctor"])
    said = capsys.readouterr().out
    assert len(said.splitlines()) <= 24
    assert f"torch {torch.__version__}" in said
    assert f"{psutil.virtual_memory().total / 1e9:.1f} GB" in said
    assert ("GPU        none" in said) == (torch.cuda.device_count() == 0)
    free = float(re.search(r"what fits  of ([\d.]+) GB free", said)[1])
    needs = ON_GPU if torch.cuda.device_count() else ON_CPU
    rows = re.findall(r"^ +(\S.*?) +([\d.]+) GB, (measured|estimate): (fits|too large)$", said, flags=re.M)
    assert [row[0] for row in rows] == [need.what for need in needs]
    assert all(
        (verdict == "fits") == (float(size) <= free) for _, size, _, verdict in rows if abs(float(size) - free) > 1
    )


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "peft-0.1.dist-info").mkdir()
    (tmp_path / "peft-0.1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["doctor"]) == 1
    assert re.search(r"^wrong      peft 0\.1, wanted \S*>=", capsys.readouterr().out, flags=re.M)
