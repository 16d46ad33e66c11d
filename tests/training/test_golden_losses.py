"""The demo's first steps give the losses that they gave when the file was written."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks.golden_losses import FILE, STEPS, measure


@pytest.mark.slow
def test_the_demo_trains_as_it_did(tmp_path):
    golden = json.loads(FILE.read_text("utf-8"))
    now = measure(tmp_path)
    again = f"if it is meant to, write {FILE.name} anew: {golden['command']}"
    assert now["base"] == golden["base"], f"the embedded base has changed; {again}"
    assert [line["step"] for line in now["steps"]] == [line["step"] for line in golden["steps"]]
    assert len(golden["steps"]) == STEPS + 2  # and held-out losses before the first and after the last
    for line, before in zip(now["steps"], golden["steps"], strict=True):
        assert line == pytest.approx(before, rel=1e-4), f"step {line['step']} has changed; {again}"
