"""Kill a training run again and again, start it again each time, and compare what it leaves with a run never stopped.

    python -m benchmarks.chaos [--kills 100] [--seed 0] [--output FOLDER]

Each start is train_texture.py itself, in a process of its own, forked from one which has torch imported already, so
that hundreds of starts take minutes. It is killed with SIGKILL: at a random moment, or, to hit what is short, while a
part of the cache, a checkpoint, sample pictures or the export is being written. A run that gets to its end in between
is compared bit for bit, and the next begins, with an empty cache. Writes benchmarks/results/chaos.json and chaos.md.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.programs import machine

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
STEPS = 12
FLAGS = {
    "data.resolution": 64,
    "run.max_train_steps": STEPS,
    "run.checkpointing_steps": 1,
    "run.train_batch_size": 2,
    "run.gradient_accumulation_steps": 2,
    "run.report_to": "none",
    "optim.learning_rate": 1e-3,
    "optim.use_ema": "true",
    "noise.snr_gamma": 5,
    "validation.every": 4,
    "validation.num_images": 1,
    "validation.num_inference_steps": 2,
}
MOMENTS = ("any", "any", "any", "any", "checkpoint", "samples", "export", "end of a checkpoint")
LIMIT = 300.0  # seconds a start may take before it counts as lost


def main() -> int:
    """Entry point; the exit code says whether every run came through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for chaos.json and chaos.md")
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    _import_what_training_imports()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        result = Chaos(Path(place), arguments.seed).run(arguments.kills)
    result["machine"] = machine()
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "chaos.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.output / "chaos.md").write_text(table(result))
    print(table(result))
    return 1 if result["lost"] or result["different"] else 0


class Chaos:
    """The runs of one session, in the folder `place`."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.dataset = make_dataset(place / "dataset")

    def run(self, kills: int) -> dict[str, Any]:
        """Kill `kills` times; what became of it."""
        began = time.monotonic()
        assert self.start("never stopped", lambda *_: False) == 0, (self.place / "log").read_text()[-3000:]
        whole = time.monotonic() - began
        expected = remains(self.place / "never stopped")
        seen: Counter[str] = Counter()
        lost: list[str] = []
        different: list[str] = []
        runs, done, finished = 0, 0, False
        while done < kills or not finished:
            name = f"run {runs}"
            if not (self.place / name).exists():
                shutil.rmtree(self.place / "cache", ignore_errors=True)
            moment, after = self.random.choice(MOMENTS), self.random.uniform(0, whole)
            if moment != "any":
                after /= 2
            if not (self.place / name).exists() and self.random.random() < 0.5:
                moment, after = "cache", 0.0
            if done >= kills:
                moment = "none"
            where: list[str] = []

            def is_time(age: float, run: Path, moment: str = moment, after: float = after, at: Any = where) -> bool:
                if moment == "none" or not strikes(moment, age, after, run, self.place / "cache"):
                    return False
                time.sleep(self.random.choice([0, 0, 0.001, 0.004, 0.01]))
                at.append(phase(run, self.place / "cache"))
                return True

            code = self.start(name, is_time)
            finished = code == 0
            if code == -signal.SIGKILL:
                done += 1
                seen[where[-1]] += 1
                print(f"{done:4d} killed: {where[-1]}", flush=True)
            elif code == 0:
                runs += 1
                found = remains(self.place / name)
                wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
                if wrong:
                    different.append(f"{name}: {', '.join(wrong)}")
                print(
                    f"     {name} came to its end: {'DIFFERENT: ' + ', '.join(wrong) if wrong else 'the same'}",
                    flush=True,
                )
                shutil.rmtree(self.place / name)
            else:
                said = (self.place / "log").read_text(errors="replace")[-1500:]
                lost.append(f"{name}, start after kill {done}: exit {code}: {said}")
                print(f"     {name} LOST: exit {code}\n{said}", flush=True)
                shutil.rmtree(self.place / name, ignore_errors=True)
                runs += 1
        return {
            "kills": done,
            "where": dict(seen.most_common()),
            "runs": runs,
            "lost": lost,
            "different": different,
            "seconds": round(time.monotonic() - began),
            "seconds_of_a_run": round(whole, 1),
        }

    def start(self, name: str, is_time: Callable[[float, Path], bool]) -> int:
        """Start the program on the run `name`, kill it once `is_time`; its exit code, negative for a signal."""
        run = self.place / name
        flags = FLAGS | {"data.dataset": self.dataset, "data.cache_dir": self.place / "cache", "run.output_dir": run}
        arguments = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
        child = os.fork()
        if child == 0:
            _become_the_program(arguments, self.place / "log")
        began = time.monotonic()
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            age = time.monotonic() - began
            if is_time(age, run):
                os.kill(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if age > LIMIT:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return 124
            time.sleep(0.0005)


def strikes(moment: str, age: float, after: float, run: Path, cache: Path) -> bool:
    """Whether the moment has come; where what it waits for does not happen, it comes in the end all the same."""
    unfinished = {
        "cache": lambda: any(cache.rglob("*.tmp")),
        "checkpoint": lambda: any(run.glob("checkpoints/.step-*")),
        "samples": lambda: any(run.glob("samples/.step-*")),
        "export": lambda: (run / f"checkpoints/step-{STEPS:08d}").exists(),
        "end of a checkpoint": lambda: any(run.glob("checkpoints/.step-*/SHA256SUMS")),
    }
    found = unfinished.get(moment, lambda: True)()
    return (found and age >= after) or age > 3 * after + 20


def phase(run: Path, cache: Path) -> str:
    """What the program is doing, by what lies around."""
    if any(run.glob("checkpoints/.step-*")):
        return "writing a checkpoint"
    if any(run.glob("samples/.step-*")):
        return "drawing samples"
    if any(cache.rglob("*.tmp")):
        return "writing the cache"
    if not (run / "metrics.jsonl").exists():
        return "start, encoding"
    if (run / f"checkpoints/step-{STEPS:08d}").exists():
        return "last validation, export"
    return "start or training"


def remains(run: Path) -> dict[str, Any]:
    """All that a finished run leaves and that no clock decides, in comparable form."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found: dict[str, Any] = {"metrics": [{k: line[k] for k in line if not k.endswith("_per_second")} for line in lines]}
    names = ["pytorch_lora_weights.safetensors", "first_batch.png", "masks.json"]
    files = [run / name for name in names] + sorted((run / "samples").rglob("*.*")) + sorted((run / "best").iterdir())
    files += [path for path in (run / "checkpoints").rglob("*") if path.is_file() and path.name != "progress.json"]
    return found | {
        str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file() and path.name != "SHA256SUMS"
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [f"| {where} | {count} |" for where, count in result["where"].items()]
    return "\n".join(
        [
            "# A run killed again and again",
            "",
            f"`python -m benchmarks.chaos`, {result['machine']}: nano, 6 textures at 64 px, {STEPS} steps of 2 x 2, a "
            "checkpoint after every step, EMA, validation and a sample every 4 steps. SIGKILL.",
            "",
            "| killed while | kills |",
            "|---|---|",
            *rows,
            f"| **all** | **{result['kills']}** |",
            "",
            f"Runs lost: {len(result['lost'])}. Runs that came to their end: {result['runs'] - len(result['lost'])}.",
            f"Of these, {len(result['different'])} differ from the run never stopped, in any bit of weights, averaged",
            f"weights, optimiser, figures, samples or exports. {result['seconds']} s in all; a run",
            f"never stopped took {result['seconds_of_a_run']} s.",
            "",
        ]
    )


def make_dataset(folder: Path) -> Path:
    """Six small textures to train on and two held out, smooth colours under bands as masks."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("validation", 2)):
        rows = []
        for number in range(count):
            colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            mask = np.zeros((64, 64), np.uint8)
            mask[: 8 + 8 * number] = 255
            pictures = {"textures": colours.resize((64, 64), Image.Resampling.BICUBIC), "masks": Image.fromarray(mask)}
            for kind, picture in pictures.items():
                (folder / split / kind).mkdir(parents=True, exist_ok=True)
                picture.save(folder / split / kind / f"{number}.png")
            names = {"file_name": f"textures/{number}.png", "mask_file_name": f"masks/{number}.png"}
            rows.append(names | {"text": f"colours {split} {number}", "coverage": (8 + 8 * number) / 64})
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _import_what_training_imports() -> None:
    import torch

    torch.set_num_threads(1)
    import diffusers
    import peft
    import transformers

    from texdiff.data.cache import encode
    from texdiff.models import trainable
    from texdiff.training import optimizer, validation
    from texdiff.training.run import checkpoint, export

    # Their classes are imported when they are first named.
    _ = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel, transformers.CLIPTokenizer
    _ = (
        diffusers.DPMSolverMultistepScheduler,
        peft,
        checkpoint,
        encode,
        export,
        optimizer,
        trainable,
        validation,
    )


def _become_the_program(arguments: list[str], log: Path) -> None:
    """In the child: train_texture.py as `python train_texture.py ARGUMENTS` runs it. Does not return."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        sys.argv = ["train_texture.py", *arguments]
        runpy.run_path(str(ROOT / "train_texture.py"), run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
