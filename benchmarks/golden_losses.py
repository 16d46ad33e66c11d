"""Losses of the demo's first 20 steps on a CPU: what they were when somebody last looked, and what they are.

    python -m benchmarks.golden_losses       # writes benchmarks/results/golden_losses.json anew

A change that is not meant to change the mathematics must leave them as they are; `tests/training/test_golden_losses.py`
compares. After one that is meant to, or after other weights of the embedded base, write the file anew and say why.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from texdiff.models.nano import nano_folder

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks/results/golden_losses.json"
STEPS, MESHES = 20, 12
FIGURES = ("loss", "error_inside", "error_border", "error_outside", "grad_norm", "validation_loss")


def measure(folder: Path) -> dict[str, Any]:
    """The figures of a run of configs/demo.yaml over `STEPS` steps, on `MESHES` meshes; `folder` is for its files."""

    def run(*words: object) -> None:
        done = subprocess.run([*map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{words[1]} ended with {done.returncode}: {done.stderr[-2000:]}")

    meshes, dataset = folder / "meshes", folder / "dataset"
    run(sys.executable, "-m", "texdiff.demo.make", meshes, "--count", MESHES)
    run(
        Path(sys.executable).with_name("texdiff"), "prepare", meshes, "--output", dataset, "--validation_fraction", 0.15
    )
    flags = ["--data.dataset", dataset, "--run.output_dir", folder / "run", "--run.max_train_steps", STEPS]
    flags += ["--validation.num_images", 0, "--run.report_to", "none"]
    run(sys.executable, "train_texture.py", "--config", "configs/demo.yaml", *flags)
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [{name: line[name] for name in ("step", *FIGURES) if name in line} for line in lines]
    return {"command": "python -m benchmarks.golden_losses", "base": nano_folder().name, "steps": steps}


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    FILE.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"wrote {FILE}: {found['base']}, loss {found['steps'][1]['loss']:.6f} at first")


if __name__ == "__main__":
    main()
