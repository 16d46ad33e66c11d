"""What the benchmarks run: texdiff's trainer, the bare step and diffusers' script, on one base and one dataset."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.coverage import processor

ROOT = Path(__file__).parent.parent
WORK = ROOT / "outputs" / "bench"
RANK = 8
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_config.yaml")]
CORES = len(os.sched_getaffinity(0))
# Nobody waits for a network. accelerate's launcher gives a program one thread where this variable says nothing else,
# and the same number is due to all.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(CORES))}

Command = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One training, whoever does it."""

    base: str  # a pipeline folder
    dataset: Path
    resolution: int
    batch: int
    steps: int
    seed: int = 0


def python(*arguments: str) -> str:
    """What a Python program prints. It runs in a process of its own, so that this one stays small."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def nano() -> str:
    """The folder of the embedded base."""
    return python("-c", "from texdiff.models.nano import nano_folder; print(nano_folder())").strip()


def sd15(folder: Path) -> str:
    """`folder`, a pipeline of Stable Diffusion 1.5's shapes and random weights, made where it is not there."""
    if not (folder / "model_index.json").exists():
        print(f"writing {folder}, 4.3 GB", flush=True)
        python("benchmarks/true_size.py", str(folder))
    return str(folder)


def sdxl(folder: Path) -> str:
    """The same with Stable Diffusion XL's shapes."""
    if not (folder / "model_index.json").exists():
        print(f"writing {folder}, 6.9 GB", flush=True)
        python("-m", "benchmarks.true_size_xl", str(folder))
    return str(folder)


def fresh_dataset(folder: Path, count: int, resolution: int, held_out: bool = True) -> Path:
    """`count` textures of texdiff's own making, prepared as a user would; the same bytes every time."""
    shutil.rmtree(folder, ignore_errors=True)
    python("-m", "texdiff.demo.make", str(folder / "meshes"), "--count", str(count), "--size", str(resolution))
    prepare = ["prepare", str(folder / "meshes"), "--output", str(folder / "dataset"), "--resolution", str(resolution)]
    python("-c", "import sys; from texdiff.cli import main; sys.exit(main())", *prepare)
    if not held_out:
        shutil.rmtree(folder / "dataset" / "validation", ignore_errors=True)
    return folder / "dataset"


def floor(work: Workload, rank: int = RANK, dtype: str = "float32") -> dict[str, float]:
    """The step's operations and this machine's rate; see benchmarks/floor.py."""
    options = {"resolution": work.resolution, "batch": work.batch, "rank": rank, "dtype": dtype}
    result: dict[str, float] = json.loads(python("-m", "benchmarks.floor", work.base, *_flags(options)))
    return result


def bare(work: Workload, dtype: str = "float32") -> Command:
    """benchmarks/bare_step.py."""
    options = {"resolution": work.resolution, "batch": work.batch, "rank": RANK, "steps": work.steps, "seed": work.seed}
    options |= {"dtype": dtype}
    script = ["benchmarks/bare_step.py", work.base, *_flags(options)]
    return lambda clock: [sys.executable, "-m", "benchmarks.clock", *clock, *script]


def texdiff(
    work: Workload,
    run: Path,
    cache: Path,
    *,
    accelerate: Sequence[str] | None = (),
    options: dict[str, Any] | None = None,
) -> Command:
    """train_texture.py as its README says, without sample pictures; `run` is its folder, deleted first.

    `accelerate` are arguments of its launcher; None goes without the launcher.
    """
    settings = {
        "model.pretrained_model_name_or_path": work.base,
        "lora.rank": RANK,
        "data.dataset": work.dataset,
        "data.resolution": work.resolution,
        "data.cache_dir": cache,
        "run.output_dir": run,
        "run.seed": work.seed,
        "run.max_train_steps": work.steps,
        "run.train_batch_size": work.batch,
        "validation.num_images": 0,
        **(options or {}),
    }
    shutil.rmtree(run, ignore_errors=True)
    script = [str(ROOT / "train_texture.py"), *_flags(settings)]
    return lambda clock: [*_launch(accelerate), "-m", "benchmarks.clock", *clock, *script]


def diffusers_script(script: Path, work: Workload, run: Path, *, accelerate: Sequence[str] | None = ()) -> Command:
    """diffusers' train_text_to_image_lora.py as its README says, without validation; `run` is its folder.

    `accelerate` as in `texdiff`.
    """
    options = {
        "pretrained_model_name_or_path": work.base,
        "train_data_dir": work.dataset / "train",
        "image_column": "image",
        "caption_column": "text",
        "cache_dir": run / "datasets",
        "resolution": work.resolution,
        "train_batch_size": work.batch,
        "max_train_steps": work.steps,
        "rank": RANK,
        "seed": work.seed,
        "output_dir": run / "output",
    }
    shutil.rmtree(run, ignore_errors=True)
    peer = ["benchmarks/peer_diffusers.py", str(script), "--center_crop", *_flags(options)]
    return lambda clock: [*_launch(accelerate), "-m", "benchmarks.clock", *clock, *peer]


def peer_script(file: Path) -> Path | None:
    """`file`, or None with a line on stderr where it is not there."""
    if file.is_file():
        return file.resolve()
    print(f"{file}: not there, so diffusers' script is left out; get it from its repository", file=sys.stderr)
    return None


def machine() -> str:
    """The processor, its cores and the memory."""
    kilobytes = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    )
    return f"{processor()}, {kilobytes / 2**20:.0f} GB"


def versions() -> dict[str, str]:
    """Those of the packages that decide about speed."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers", "peft", "accelerate", "datasets")}


def _launch(accelerate: Sequence[str] | None) -> list[str]:
    return [sys.executable] if accelerate is None else [*LAUNCH, *accelerate]


def _flags(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]
