"""`texdiff prepare`: from meshes to a dataset of texture, mask and text.

Three stages. Read: each asset on its own, in a worker, into the work folder `DATASET.partial`. Build: each texture
content with all its uses, in a worker, into its entry. Write: the entries in sorted order, by the parent alone. Nothing
in a result depends on which worker made it or when, so the dataset is the same for any number of workers; and since
every result is a file, a run that was stopped continues where it stopped.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from texdiff.data.prepare.audit import write_audit
from texdiff.data.prepare.audit.reasons import count_reasons
from texdiff.data.prepare.build_stage import build, build_entries
from texdiff.data.prepare.captioner import Captioner, draw_views
from texdiff.data.prepare.dataset_card import dataset_card
from texdiff.data.prepare.near_duplicates.merge import merge_near_duplicates
from texdiff.data.prepare.parquet import to_parquet
from texdiff.data.prepare.read_stage import read, read_assets
from texdiff.data.prepare.sources import find_assets
from texdiff.data.prepare.work_folder import audit_place, check_output, open_work_folder, put_in_place
from texdiff.data.prepare.workers import Workers
from texdiff.data.prepare.write_stage import (
    count_of,
    split,
    summarise,
    write_mesh_index,
    write_splits,
)
from texdiff.errors import InputError, readable
from texdiff.uv.measures import LATENT_CELL


def prepare_dataset(
    sources: list[str],
    output: Path,
    *,
    resolution: int | None = None,
    captions: Path | None = None,
    caption_template: str = "{caption}",
    captioner: str | None = None,
    format: Literal["imagefolder", "parquet"] = "imagefolder",
    validation_fraction: float = 0.05,
    workers: int | None = None,
    time_limit: float = 120.0,
    memory_limit: float = 4.0,
    send: Callable[[], None] = lambda: None,
) -> str:
    """Write the dataset to `output` and return a summary of one line; see `texdiff prepare --help` for the rest. `send`
    brings it elsewhere; until that is done the work folder stays, so that the same call soon comes to it again.

    Raises InputError where an option makes no sense, a source is missing, `output` holds something else, or nothing
    usable is found: `output` is then as it was, or holds nothing but the audit where there was no dataset.
    """
    _check_options(resolution, caption_template, validation_fraction, workers, time_limit, memory_limit)
    output = Path(os.path.abspath(output))
    check_output(output)
    model = Captioner(captioner) if captioner else None  # before the long part: a wrong name is reported at once
    work, is_new = open_work_folder(output)
    try:
        assets, caption_files = find_assets(sources, captions, work / "spool", skip=(output.resolve(), work.resolve()))
    except InputError:
        if is_new:
            shutil.rmtree(work)
        raise

    count = min(workers or _cores(), len(assets))
    with Workers((read, build, draw_views), count=count, time_limit=time_limit, memory_limit=memory_limit) as pool:
        uses, unread = read_assets(assets, work, pool)
        entries = merge_near_duplicates(build_entries(uses, work, resolution, pool))
        kept = [entry for entry in entries if entry.reason is None]
        if model is not None:
            model.draw_views(kept, pool)
    aside = [entry.reason for entry in entries if entry.reason is not None]
    reasons = count_reasons([*aside, *(item.reason for item in unread)])
    folder, name = work / "dataset", readable(output.name)
    if not kept:
        most = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        summary = f"nothing usable in {count_of(len(assets), 'asset')}: {most}"
        folder.mkdir()
        write_audit(folder, name, summary, entries, unread, {})
        place = audit_place(output)
        put_in_place(folder, place)
        shutil.rmtree(work)
        raise InputError(f"{', '.join(sources)}: {summary}; see {place / 'audit.html'}")
    if model is not None:
        kept = model.caption_entries(kept, work)

    splits = split(kept, validation_fraction)
    rows = write_splits(folder, kept, splits, caption_template)
    summary = summarise(rows, kept, len(assets), len(entries) + len(unread), reasons, caption_files)
    write_mesh_index(folder, kept, output)
    write_audit(folder, name, summary, entries, unread, splits)
    (folder / "README.md").write_text(dataset_card(name, rows, reasons, format), encoding="utf-8")
    if format == "parquet":
        to_parquet(folder)
    put_in_place(folder, output)
    send()
    shutil.rmtree(work)
    return f"{readable(str(output))}: {summary}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_options(
    resolution: int | None,
    template: str,
    validation_fraction: float,
    workers: int | None,
    time_limit: float,
    memory_limit: float,
) -> None:
    if resolution is not None and (resolution < LATENT_CELL or resolution % LATENT_CELL):
        raise InputError(
            f"--resolution must be a positive multiple of {LATENT_CELL}, a latent cell's side (got {resolution})"
        )
    if "{caption}" not in template:
        raise InputError(f'--caption_template must contain {{caption}} (got "{template}")')
    if not 0 <= validation_fraction < 1:
        raise InputError(f"--validation_fraction must be at least 0 and below 1 (got {validation_fraction})")
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1 (got {workers})")
    if not time_limit > 0:
        raise InputError(f"--time_limit must be a positive number of seconds (got {time_limit})")
    if not memory_limit > 0:
        raise InputError(f"--memory_limit must be a positive number of GiB (got {memory_limit})")
