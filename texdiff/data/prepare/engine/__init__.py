"""`prepare` in tasks, for an engine that spreads them over machines: datatrove, on Slurm, Ray or one machine.

A task is a function of its number and of how many there are, which is what datatrove takes as a step of a pipeline.
Tasks share the work folder `DATASET.partial`, where every result is a file that is there or not. So whatever ends a
task, it continues when it is started again; and `texdiff prepare` with the same options, which then finds all done,
writes the dataset, the same bytes as without tasks. Which task does what depends on keys of files, not on their order.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.build_stage import build, build_entries
from texdiff.data.prepare.read_stage import read, read_assets
from texdiff.data.prepare.sources import find_assets
from texdiff.data.prepare.work_folder import check_output, open_work_folder
from texdiff.data.prepare.workers import Workers
from texdiff.errors import InputError
from texdiff.storage import is_address


@dataclass(frozen=True, kw_only=True)
class Task:
    """The options of `texdiff prepare` that all tasks and the command at the end have in common. `workers`: processes
    of each task, in which files are read that may crash or hang."""

    sources: list[str]
    output: str
    captions: str | None = None
    resolution: int | None = None
    workers: int = 1
    time_limit: float = 120.0
    memory_limit: float = 4.0

    def _assets(self) -> tuple[list[Asset], Path]:
        if is_address(self.output):
            raise InputError(f"{self.output}: tasks share a folder on a disk; name that")
        output = Path(os.path.abspath(self.output))
        check_output(output)
        work, _ = open_work_folder(output)
        captions = Path(self.captions) if self.captions else None
        skip = (output.resolve(), work.resolve())
        return find_assets(self.sources, captions, work / "spool", skip=skip)[0], work

    def _workers(self) -> Workers:
        limits = {"time_limit": self.time_limit, "memory_limit": self.memory_limit}
        return Workers((read, build), count=self.workers, **limits)


@dataclass(frozen=True, kw_only=True)
class ReadAssets(Task):
    """First: meshes and images to textures and their uses."""

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do task `rank` of `world_size`. Raises InputError as `prepare_dataset` does."""
        assets, work = self._assets()
        with self._workers() as pool:
            read_assets([asset for asset in assets if _is_mine(asset.key, rank, world_size)], work, pool)


@dataclass(frozen=True, kw_only=True)
class BuildEntries(Task):
    """Then, when all is read: each texture content with all its uses to its entry. What is not read yet, it reads."""

    def __call__(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Do task `rank` of `world_size`. Raises InputError as `prepare_dataset` does."""
        assets, work = self._assets()
        with self._workers() as pool:
            uses, _ = read_assets(assets, work, pool)
            mine = {content: used for content, used in uses.items() if _is_mine(content, rank, world_size)}
            build_entries(mine, work, self.resolution, pool)


def _is_mine(key: str, rank: int, world_size: int) -> bool:
    return int(key[:12], 16) % world_size == rank
