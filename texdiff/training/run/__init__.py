"""The folder of a run: the names of its files, and what they say.

Nothing is read before it is asked for, and torch is not needed to read.
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from texdiff.errors import InputError, one_line
from texdiff.files import write_atomic
from texdiff.models.exports import BEST, BEST_FILE, CHECKPOINTS, LAYOUT_NET, MAPS_KEY, STATE_FILES
from texdiff.models.lora_files import LORA_FILE
from texdiff.storage import is_address
from texdiff.training.run.stored import SUMS, After, RunStorage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from texdiff.config import TrainingConfig
    from texdiff.training.parallel import Parallel
    from texdiff.training.startup import Sizes


class Run:
    """A run in `folder`. One that is being trained continues from `resume_from`, where it has a checkpoint."""

    def __init__(self, folder: Path, resume_from: Path | None = None, storage: "RunStorage | None" = None) -> None:
        self.folder, self.resume_from, self.storage = folder, resume_from, storage
        self.record: Callable[[], None] = lambda: None
        self.config_file = folder / "config.yaml"
        self.metrics_file = folder / "metrics.jsonl"
        self.provenance_file = folder / "about.json"
        self.masks_file = folder / "masks.json"
        self.first_batch_file = folder / "first_batch.png"
        self.evaluation_file = folder / "evaluation.json"
        self.report_file = folder / "report.html"
        self.model_card_file = folder / "README.md"
        self.lora_file = folder / LORA_FILE
        self.pipeline_file = folder / "model_index.json"
        self.layout_net_folder = folder / LAYOUT_NET
        self.best_folder = folder / BEST
        self.checkpoints_folder = folder / CHECKPOINTS
        self.samples_folder = folder / "samples"
        self.samples_file = self.samples_folder / "samples.json"
        self.trackers_folder = folder / "logs"

    @classmethod
    def choose(cls, output_dir: str, resume: str, max_train_steps: int, parallel: "Parallel") -> "Run":
        """The run's folder, and the checkpoint to continue from if there is one. Nothing is written yet.

        With `never`, a folder that is in use stays as it is and the run goes to NAME-2, NAME-3, ...
        Raises InputError for a folder that cannot be written, that ranks do not share, or that holds something else
        than a run, for a finished run that has no checkpoint, and for one that has done more than `max_train_steps` and
        has no checkpoint of that step. Every rank must call it.
        """
        from texdiff.training.run.choice import choose_folder, choose_stored, missing

        if is_address(output_dir):
            return choose_stored(output_dir, resume, max_train_steps, parallel)
        folder, resume_from = parallel.decide(lambda: choose_folder(Path(output_dir), resume, max_train_steps))
        # By a name below what each has for the working folder, as that is how the ranks will write and read.
        above = parallel.decide(lambda: missing(folder))
        shared = 0 in parallel.together([folder, *folder.absolute().parents][above])
        if without := parallel.gather([] if shared else [parallel.place]):
            raise InputError(
                f"run.output_dir: {folder} is not the same folder on every machine: {', '.join(without)} cannot see "
                "what process 0 writes there; name one on a disk that all of them share"
            )
        return cls(folder, resume_from)

    def create(self, config: "TrainingConfig", sizes: "Sizes", parallel: "Parallel") -> None:
        """Create the folder, keep other processes out, and write config.yaml and about.json; of a run that continues
        these stay until its checkpoint has been taken over, `record`: a command that is refused changes nothing. Every
        rank must call it; raises InputError on each where the folder cannot be written."""
        from texdiff.training.run.provenance import provenance

        def record() -> None:
            write_atomic(self.config_file, config.to_yaml().encode())
            about = provenance([source.path for source in config.data.sources], sizes, parallel)
            write_atomic(self.provenance_file, _json(about), durable=False)
            self.send("start")

        def write() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            if self.storage is not None:
                self.storage.begin()
            if self.resume_from is None:
                record()

        parallel.decide(lambda: self._write(write))
        if self.resume_from is not None:
            self.record = lambda: self._write(record)

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            raise InputError(
                f"run.output_dir: {self.folder} cannot be written ({error.strerror}); name another"
            ) from None

    def send(self, after: After) -> None:
        """Where the run is in storage, have there what is new. For rank 0 alone; see `RunStorage.send`."""
        if self.storage is not None:
            self.storage.send(after)

    def finish(self, parallel: "Parallel") -> None:
        """Take leave of the other ranks, and say where to look."""
        parallel.end()
        if parallel.is_main:
            best = self.best()
            at = f", and the best, after {best['step']} steps, in {self.best_folder}" if best else ""
            print(f"done: weights and samples are in {self.folder}{at}; see {self.report_file}")
            if self.storage is not None:
                print(f"sending them to {self.storage.address}")

    def _lock(self) -> None:
        """Keep other processes from this run until ours ends, however it ends. Raises InputError where one is at work:
        a launcher that was stopped may be gone while what it launched is finishing its step."""
        if fcntl is None:
            return
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as the descriptor is open
        except BlockingIOError:
            raise InputError(
                f"{self.folder}: another process is at work here, on its last step maybe; wait, or end it"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)

    def sample_folder(self, step: int) -> Path:
        """The sample images after `step` steps: complete or absent."""
        return self.samples_folder / f"step-{step:08d}"

    def checkpoint_folder(self, step: int) -> Path:
        """The checkpoint after `step` steps: complete or absent."""
        return self.checkpoints_folder / f"step-{step:08d}"

    def sample_folders(self) -> list[Path]:
        """The folders of sample images up to the run's last step, oldest first."""
        return [folder for folder in _steps(self.samples_folder) if step_of(folder) <= self._end()]

    def checkpoints(self) -> list[Path]:
        """The checkpoints, oldest first, good or damaged. A folder that has nothing left but its export is none."""
        return [folder for folder in _steps(self.checkpoints_folder) if not _is_export_alone(folder)]

    def checkpoint_exports(self) -> list[Path]:
        """The folders of checkpoints that have gone but for their exports, oldest first."""
        return [folder for folder in _steps(self.checkpoints_folder) if _is_export_alone(folder)]

    def settings(self) -> dict[str, Any]:
        """The settings by section, as config.yaml has them. Raises InputError where there is none, or a damaged one."""
        import yaml

        try:
            found = yaml.safe_load(self.config_file.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.folder}: not a run (no config.yaml in it); name the folder of a run") from None
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise InputError(f"{self.config_file}: not a valid YAML file ({one_line(error)})") from None
        if not isinstance(found, dict):
            raise InputError(f"{self.config_file}: holds no settings; name the folder of a run")
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl up to the run's last step."""
        end = self._end()
        return [line for line in self.all_metrics() if line["step"] <= end]

    def all_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without those that are torn: the machine went down, or the disk was full. Where
        run.max_train_steps is lower than it was once, there are lines beyond it."""
        lines = []
        path = self.metrics_file
        for text in path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []:
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
                continue
            lines.append(line)
        return lines

    def _end(self) -> float:
        """run.max_train_steps; where it cannot be read, more than any step."""
        try:
            return int(self.settings()["run"]["max_train_steps"])
        except (InputError, LookupError, TypeError, ValueError):
            return math.inf

    def provenance(self) -> dict[str, Any]:
        """What `create` wrote to about.json; where that is missing, both parts are empty."""
        return {"dataset": {}, "machine": {}} | _read_json(self.provenance_file)

    def masks(self) -> dict[str, Any]:
        """What masks.json says of the masks at latent size; empty where it is missing."""
        return _read_json(self.masks_file)

    def evaluation(self) -> dict[str, Any]:
        """What `texdiff evaluate` found; empty where it was not asked."""
        return _read_json(self.evaluation_file)

    def layout_maps(self) -> dict[str, Any]:
        """What the maps of the run's own layout net show; empty where there is no net."""
        said = _read_json(self.layout_net_folder / "config.json").get(MAPS_KEY)
        return said["layout"] if isinstance(said, dict) and isinstance(said.get("layout"), dict) else {}

    def best(self) -> dict[str, Any]:
        """`step` and `validation_loss` of what is in RUN/best; empty where there is none."""
        found = _read_json(self.best_folder / BEST_FILE)
        known = isinstance(found.get("step"), int) and isinstance(found.get("validation_loss"), float)
        return found if known else {}

    @property
    def is_finished(self) -> bool:
        """Whether weights were exported."""
        return self.lora_file.is_file() or self.pipeline_file.is_file() or self.layout_net_folder.is_dir()


def step_of(folder: Path) -> int:
    """The steps after which a folder of a checkpoint or of samples was written, by its name."""
    return int(folder.name.removeprefix("step-"))


def _steps(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    return sorted(found)


def _is_export_alone(folder: Path) -> bool:
    """Whether the folder of a checkpoint lists an export, and nothing that a run could continue from."""
    try:
        names = {line.split("  ")[-1] for line in (folder / SUMS).read_text("utf-8").splitlines()}
    except (OSError, ValueError):  # a damaged checkpoint
        return False
    return bool(names) and names.isdisjoint(STATE_FILES)


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False).encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
