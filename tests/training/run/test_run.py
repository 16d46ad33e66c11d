"""The folder of a run: which one it is, and what is read of one that is missing or damaged."""

import subprocess
import sys

import pytest

from texdiff.errors import InputError
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run


def chosen(folder, resume):
    run = Run.choose(str(folder), resume, 1, Parallel(cpu=True))
    return run.folder, run.resume_from


def test_a_folder_that_holds_no_run_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        chosen(tmp_path / "file", "auto")
    with pytest.raises(InputError, match="holds other files and no run"):
        chosen(tmp_path, "auto")
    assert chosen(tmp_path, "never") == (tmp_path.with_name(f"{tmp_path.name}-2"), None)
    assert chosen(tmp_path / "new", "auto") == (tmp_path / "new", None)


def test_one_process_at_a_time(tmp_path):
    Run(tmp_path)._lock()
    other = f"from pathlib import Path; from texdiff.training.run import Run; Run(Path({str(tmp_path)!r}))._lock()"
    refused = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
    assert "another process is at work here" in refused.stderr


def test_reading_needs_no_torch(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n[]\n{"step": 2, "lo')
    program = (
        "import sys; from pathlib import Path; from texdiff.training.run import Run\n"
        f"run = Run(Path({str(tmp_path)!r}))\n"
        "print(run.metrics(), run.provenance(), run.masks(), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert said == "[{'step': 1, 'loss': 0.5}] {'dataset': {}, 'machine': {}} {} False\n"


@pytest.mark.parametrize("text", [None, "[1, 2]", "a: [", "\0", "- " * 100_000])
def test_damaged_settings_are_said_in_one_line(text, tmp_path):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"not a run|not a valid YAML file|holds no settings") as said:
        Run(tmp_path).settings()
    assert len(str(said.value).splitlines()) == 1
