"""`texdiff prepare`: from meshes to a dataset of texture, mask and text.

Three stations. Read: each asset on its own, in a worker, into the work folder `DATASET.partial`. Build: each texture
content with all its uses, in a worker, into its entry. Write: the entries in sorted order, by the parent alone. Nothing
in a result depends on which worker made it or when, so the dataset is the same for any number of workers; and since
every result is a file, a run that was stopped goes on where it stopped.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.audit_page import write_audit_page
from texdiff.data.prepare.build_stage import EntryJob, build
from texdiff.data.prepare.dataset_card import dataset_card
from texdiff.data.prepare.publish import to_parquet
from texdiff.data.prepare.read_stage import ReadJob, read, record
from texdiff.data.prepare.sources import find_assets
from texdiff.data.prepare.sources.captions import CaptionFile
from texdiff.data.prepare.views import VIEWS, ViewJob, draw_views
from texdiff.data.prepare.work_folder import check_output, open_work_folder, put_in_place
from texdiff.data.prepare.workers import Failure, Workers
from texdiff.data.prepare.write_stage import (
    Entry,
    SetAside,
    audit_rows,
    entry_thumbnails,
    split,
    write_dataset,
    write_meshes,
)
from texdiff.errors import InputError
from texdiff.files import write_atomic

if TYPE_CHECKING:
    from texdiff.data.prepare.captioner import Captioner


@dataclass(frozen=True)
class _Use:
    """A texture content in an asset."""

    asset: Asset
    name: str  # the texture's, there
    file: str  # with the triangles or the mask, relative to the work folder
    facts: dict[str, Any]


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
) -> str:
    """Write the dataset to `output` and return a summary of one line; see `texdiff prepare --help` for the rest.

    Raises InputError where an option makes no sense, a source is missing, `output` holds something else, or nothing
    usable is found; `output` is then as it was.
    """
    _check_options(resolution, caption_template, validation_fraction, workers, time_limit, memory_limit)
    output = Path(os.path.abspath(output))
    check_output(output)
    model = _load_captioner(captioner) if captioner else None  # before the long part: a wrong name is said at once
    work, is_new = open_work_folder(output)
    try:
        assets, caption_files = find_assets(sources, captions, work / "spool", skip=(output.resolve(), work.resolve()))
    except InputError:
        if is_new:
            shutil.rmtree(work)
        raise
    count = min(workers or _cores(), len(assets))
    with Workers((read, build, draw_views), count=count, time_limit=time_limit, memory_limit=memory_limit) as pool:
        _read_all(assets, work, pool)
        uses, aside = _textures(assets, work)
        entries = _build_all(uses, work, resolution, pool)
        if model is not None:
            _draw_all([entry for entry in entries if entry.reason is None and model.needs_caption(entry)], pool)
    kept = [entry for entry in entries if entry.reason is None]
    set_aside = [one.reason for one in entries if one.reason is not None] + [one.reason for one in aside]
    reasons = Counter(map(_kind, set_aside))
    if not kept:
        shutil.rmtree(work)
        most = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise InputError(f"{', '.join(sources)}: nothing usable in {_count(len(assets), 'asset')}: {most}")

    if model is not None:
        kept = model.caption_entries(kept, work)
    splits = split(kept, validation_fraction)
    folder = work / "dataset"
    rows = write_dataset(folder, kept, splits, caption_template)
    some_surfaces = any(entry.has_surface for entry in kept) and not all(entry.has_surface for entry in kept)
    summary = _summary(rows, len(assets), len(entries) + len(aside), reasons, caption_files, some_surfaces)
    write_meshes(folder, kept, output)
    _write_audit(folder, output.name, summary, entries, aside, splits)
    (folder / "README.md").write_text(dataset_card(output.name, rows, reasons, format), encoding="utf-8")
    if format == "parquet":
        to_parquet(folder)
    put_in_place(folder, output)
    shutil.rmtree(work)
    return f"{output}: {summary}"


def _load_captioner(name: str) -> "Captioner":
    from texdiff.data.prepare.captioner import Captioner  # brings torch and transformers, which nothing else here needs

    return Captioner(name)


def _read_all(assets: list[Asset], work: Path, pool: Workers) -> None:
    jobs = [ReadJob(asset, work) for asset in assets if not _is_read(work, asset)]
    for job, answer in _with_bar("reading", "assets", len(assets), pool.run(read, jobs), len(jobs)):
        if isinstance(answer, Failure):
            reason = answer.reason.removeprefix(f"{job.asset.path}: ").replace(str(job.asset.path.parent) + os.sep, "")
            record(work, job.asset.key, [], [{"name": None, "reason": reason, "again": not answer.lasting}])


def _is_read(work: Path, asset: Asset) -> bool:
    try:
        found = json.loads((work / "assets" / asset.key / "found.json").read_bytes())
    except (OSError, ValueError):
        return False
    return not any(one.get("again") for one in found["set_aside"])


def _is_built(work: Path, job: EntryJob) -> bool:
    try:
        return not json.loads((work / job.place / "entry.json").read_bytes()).get("again")
    except (OSError, ValueError):
        return False


def _textures(assets: list[Asset], work: Path) -> tuple[dict[str, list[_Use]], list[SetAside]]:
    """Content -> its uses, in the order of the assets; and what was set aside."""
    uses: dict[str, list[_Use]] = {}
    aside = []
    for asset in assets:
        found = json.loads((work / "assets" / asset.key / "found.json").read_bytes())
        for texture in found["textures"]:
            uses.setdefault(texture["content"], []).append(
                _Use(asset, texture["name"], texture["uses"], texture["facts"])
            )
        aside += [SetAside(asset=asset, name=one["name"], reason=one["reason"]) for one in found["set_aside"]]
    return uses, aside


def _build_all(uses: dict[str, list[_Use]], work: Path, resolution: int | None, pool: Workers) -> list[Entry]:
    jobs = {}
    for content, used in uses.items():
        files = tuple(use.file for use in used)
        # "surface": what an entry holds, so that one built by a texdiff that did not write it is built again.
        key = hashlib.sha256("\n".join(["surface", content, str(resolution), *files]).encode()).hexdigest()[:24]
        jobs[content] = EntryJob(content, files, resolution, work, f"entries/{key}")
    missing = [job for job in jobs.values() if not _is_built(work, job)]
    for job, answer in _with_bar("measuring", "textures", len(jobs), pool.run(build, missing), len(missing)):
        if isinstance(answer, Failure):
            failed = {"facts": {"reason": answer.reason}, "thumbnails": [], "again": not answer.lasting}
            write_atomic(work / job.place / "entry.json", json.dumps(failed).encode(), durable=False)
    entries = []
    for content, used in uses.items():
        folder = work / jobs[content].place
        facts = json.loads((folder / "entry.json").read_bytes())["facts"]
        entries.append(
            Entry(
                content=content,
                name=used[0].name,
                assets=tuple(dict.fromkeys(use.asset for use in used)),
                folder=folder,
                reason=facts["reason"],
                facts=used[0].facts,
            )
        )
    return entries


def _draw_all(entries: list[Entry], pool: Workers) -> None:
    """Views of the meshes for the captioner; where there is no mesh, or it can't be drawn, it sees the texture."""
    jobs = [ViewJob(entry.assets[0].path, entry.folder) for entry in entries if entry.assets[0].mask is None]
    jobs = [job for job in jobs if not (job.folder / VIEWS).is_file()]
    for _ in _with_bar("drawing", "meshes", len(jobs), pool.run(draw_views, jobs), len(jobs)):
        pass


def _with_bar(
    title: str, unit: str, total: int, answers: Iterator[tuple[Any, Any]], missing: int
) -> Iterator[tuple[Any, Any]]:
    """The answers, with a progress bar on stderr that shows rate and time left."""
    with tqdm(desc=title, unit=f" {unit}", total=total, initial=total - missing, file=sys.stderr) as bar:
        for answer in answers:
            bar.update()
            yield answer


def _write_audit(
    folder: Path, name: str, summary: str, entries: list[Entry], aside: list[SetAside], splits: dict[str, str]
) -> None:
    columns: dict[str, None] = {}
    with (folder / "audit.jsonl").open("w", encoding="utf-8") as file:
        for row in audit_rows(entries, aside, splits):
            columns |= dict.fromkeys(row)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    by_content = {entry.content: entry for entry in entries}
    rows = (  # what has a picture comes first: of real meshes, half of the parts have none
        (row, entry_thumbnails(by_content[row["content"]]) if seen else [])
        for seen in (True, False)
        for row in audit_rows(entries, aside, splits)
        if ("content" in row) == seen
    )
    write_audit_page(folder / "audit.html", f"{name}: audit", summary, list(columns), rows)


def _summary(
    rows: list[dict[str, Any]],
    assets: int,
    looked_at: int,
    reasons: Counter[str],
    caption_files: list[CaptionFile],
    some_surfaces: bool,
) -> str:
    splits = Counter(row["split"] for row in rows)
    text = f"{len(rows)} textures kept ({splits['train']} train, {splits['validation']} validation)"
    text += f" of {looked_at} textures and materials in {_count(assets, 'asset')}"
    if reasons:
        text += "; set aside: " + ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    for file in caption_files:
        if file.unused:
            text += f"; {_count(len(file.unused), 'line')} of {file.path.name} name no mesh here ({min(file.unused)})"
    if some_surfaces:
        text += "; no surface files, since some textures come without a mesh"
    return text


def _kind(reason: str) -> str:
    """A reason to count by: its first clause, with a dot-dot-dot for its numbers and names of files."""
    odd = r"\S*[\d./\\]\S*"
    return re.sub(rf"{odd}(.*{odd})?", "…", re.split(r"[;(]", reason)[0]).strip()


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


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
    if resolution is not None and (resolution < 8 or resolution % 8):
        raise InputError(f"--resolution {resolution}: use a positive multiple of 8, the texels of a latent cell's side")
    if "{caption}" not in template:
        raise InputError(f'--caption_template "{template}": write {{caption}} where the caption goes')
    if not 0 <= validation_fraction < 1:
        raise InputError(f"--validation_fraction {validation_fraction}: use a number from 0 to below 1")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: use at least 1")
    if not time_limit > 0:
        raise InputError(f"--time_limit {time_limit}: use a positive number of seconds")
    if not memory_limit > 0:
        raise InputError(f"--memory_limit {memory_limit}: use a positive number of GiB")
