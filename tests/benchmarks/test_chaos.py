"""The harness of `make chaos`, for a few kills."""

import json
import sys

import pytest


@pytest.mark.slow
def test_a_run_killed_four_times_is_the_run_never_stopped(run_program, tmp_path):
    result = run_program(sys.executable, "-m", "benchmarks.chaos", "--kills", 4, "--output", tmp_path)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    found = json.loads((tmp_path / "chaos.json").read_text())
    assert found["kills"] == 4
    assert sum(found["where"].values()) == 4
    assert found["runs"] >= 1
    assert found["lost"] == found["different"] == []
