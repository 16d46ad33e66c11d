"""What has gathered in the cache, and how what is no longer used goes: `texdiff cache`.

Only what texdiff names itself is looked at, so that a folder with other files in it can be the cache, too.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from texdiff.files import remove, unless_held

_STORE = re.compile(r"[a-z]+(-[a-z]+)*-[0-9a-f]{16}")
_SHARD = re.compile(r"([0-9a-f]{32}|index)\.arrow")
_BASE = re.compile(r"nano-[0-9a-f]{12}")
_UNPACKED = re.compile(r"[0-9a-f]{32}\.png")
_DAY = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class CacheItem:
    """A file of the cache, or the folder of a base, that is kept or deleted in one piece."""

    path: Path
    what: str
    made_for: str
    size: int
    """Bytes."""
    used: float
    """When it was last used, by time.time()."""
    in_use: bool = False
    """Left alone when it should have been pruned."""


def find_items(folder: Path, *, everything: bool) -> list[CacheItem]:
    """What is cached in `folder`; `everything` in the user's cache folder, where more is than data.cache_dir names."""
    if not everything:
        return [*_shards(folder, "readable"), *_stores(folder)]
    found = [*_stores(folder / "encoded"), *_shards(folder / "readable", "readable")]
    for place in (folder / "unsent").glob("*"):
        found += _stores(place)
    found += _shards(folder / "records", "records")
    for path in _matching(folder, _BASE):
        files = [file.stat() for file in path.rglob("*") if file.is_file()]
        size, used = sum(file.st_size for file in files), max((_read(file) for file in files), default=0.0)
        found.append(CacheItem(path=path, what="base", made_for="nano", size=size, used=used))
    for path in _matching(folder / "unpacked", _UNPACKED):
        stat = path.stat()
        found.append(CacheItem(path=path, what="images", made_for="tables", size=stat.st_size, used=_read(stat)))
    for path in [*(folder / "copies").glob("??/*"), *(folder / "fetched").glob("*/*/**/*")]:
        if path.is_file():
            stat = path.stat()
            item = CacheItem(path=path, what="copies", made_for="storage", size=stat.st_size, used=stat.st_mtime)
            found.append(item)
    return found


def prune(items: Iterable[CacheItem], *, days: float) -> list[CacheItem]:
    """Delete what has not been used for so many days, and return what is left: all that is in a folder that a running
    process holds, too."""
    oldest, left = time.time() - days * _DAY, []
    by_folder = defaultdict(list)
    for item in items:
        by_folder[item.path if item.what == "base" else item.path.parent].append(item)
    for folder, inside in by_folder.items():
        with unless_held(folder) as free:
            for item in inside:
                if item.used > oldest:
                    left.append(item)
                elif not free:
                    left.append(replace(item, in_use=True))
                elif item.path.is_dir():
                    remove(item.path)
                else:
                    item.path.unlink(missing_ok=True)
    return left


def table(folder: Path, items: Iterable[CacheItem]) -> str:
    """The items, by what they were made for, the largest first."""
    groups = defaultdict(list)
    for item in items:
        groups[item.what, item.made_for].append(item)
    rows = []
    for (what, made_for), inside in sorted(groups.items(), key=lambda group: -sum(item.size for item in group[1])):
        size, used = sum(item.size for item in inside), max(item.used for item in inside)
        note = "  (in use, not pruned)" if any(item.in_use for item in inside) else ""
        day = time.strftime("%Y-%m-%d", time.localtime(used))
        rows.append(f"{_in_units(size)}  {day}  {what:10} {made_for}{note}")
    total = sum(item.size for group in groups.values() for item in group)
    head = f"{'size':>8}        last used   what" if rows else "nothing is cached"
    return "\n".join([str(folder), head, *rows, f"{_in_units(total)}  in all"])


def _stores(folder: Path) -> Iterator[CacheItem]:
    for store in _matching(folder, _STORE):
        yield from _shards(store, store.name.rpartition("-")[0])


def _shards(folder: Path, what: str) -> Iterator[CacheItem]:
    for path in _matching(folder, _SHARD):
        stat = path.stat()
        yield CacheItem(path=path, what=what, made_for=_made_for(path), size=stat.st_size, used=stat.st_mtime)


def _made_for(path: Path) -> str:
    """What the shard's own metadata say; those of earlier versions say nothing, nor do damaged ones."""
    try:
        with pa.memory_map(str(path)) as source:
            said = pa.ipc.open_file(source).schema.metadata or {}
    except (pa.ArrowException, OSError):
        return "unknown"
    names = [said[key].decode(errors="replace") for key in (b"dataset", b"base") if key in said]
    return ", ".join("nano" if _BASE.fullmatch(Path(name).name) else name for name in names) or "unknown"


def _matching(folder: Path, name: re.Pattern[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if name.fullmatch(path.name)) if folder.is_dir() else []


def _read(stat: os.stat_result) -> float:
    """When a file was last read, where the file system remembers that, or else written."""
    return max(stat.st_atime, stat.st_mtime)


def _in_units(size: float) -> str:
    units = ["bytes", "kB", "MB", "GB"]
    while size >= 999.95 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:8,.1f} {units[0]:5}"
