"""Local copies of files in storage, made when they are asked for. Those longest unused go where they are too many."""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path, PurePosixPath

from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.storage import default_cache_dir, download, download_files, find, settled

GRACE = 60.0  # seconds after its last use in which no copy goes, as another process may be about to open it
_STEP = 0.05  # share of the bound that is added between two looks at all copies


class LocalCopies:
    """Copies in `folder`, of up to `bound` bytes in all, but for what was used within the last minute. Processes and
    threads may share it."""

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder, self.bound = folder, bound
        self._lock = threading.Lock()
        self._added: float = bound  # since the last look; at first nobody has looked

    def path(self, address: str, stamp: str) -> Path:
        """The copy of the file at `address`, whose `stamp` changes when it does. Raises InputError where it cannot be
        read there, and OSError where it cannot be written here."""
        file = self.place(address, stamp)
        try:
            os.utime(file)
        except FileNotFoundError:
            download(address, file)
            self._count(file.stat().st_size)
        return file

    def adopt(self, file: Path, address: str, stamp: str) -> None:
        """Take `file`, which has just been sent to `address`, for its copy; where it cannot be moved, it goes."""
        place = self.place(address, stamp)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
            self._count(place.stat().st_size)
        except OSError:
            file.unlink(missing_ok=True)

    def read(self, address: str, stamp: str) -> bytes:
        """The bytes of the file at `address`. Raises as `path` does."""
        while True:
            try:
                return self.path(address, stamp).read_bytes()
            except FileNotFoundError:  # another process has made room just now
                continue

    def place(self, address: str, stamp: str) -> Path:
        """Where the copy is once it is made."""
        name = hashlib.sha256(f"{address}\n{stamp}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        suffix = PurePosixPath(address).suffix
        return self.folder / name[:2] / f"{name}{suffix if suffix[1:].isalnum() and len(suffix) < 9 else ''}"

    def _count(self, size: int) -> None:
        with self._lock:
            self._added += size
            if self._added > _STEP * self.bound:
                self._added = 0
                self._make_room()

    def _make_room(self) -> None:
        """Delete the copies that have been unused for longest, until the others have no more than the bound."""
        found = []
        for folder in os.scandir(self.folder):
            if folder.is_dir():
                for entry in os.scandir(folder.path):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue
                    found.append((status.st_mtime, status.st_size, entry.path))
        size, now = sum(size for _, size, _ in found), time.time()
        for used, less, path in sorted(found):
            if size <= self.bound or used > now - GRACE:
                return
            Path(path).unlink(missing_ok=True)
            size -= less


@lru_cache(maxsize=1)
def local_copies() -> LocalCopies:
    """Those in the user's cache folder: of up to half of what the disk has for them."""
    folder = default_cache_dir() / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return LocalCopies(folder, (shutil.disk_usage(folder).free + there) // 2)


def local_folder(address: str, without: Collection[str] = ()) -> Path:
    """What is at an address, as it is now: the copy of a file, or a folder of the user's cache with the files of that
    folder but for those of these names. What was fetched before and has not changed is not fetched again.

    Raises InputError where there is nothing, or storage cannot be read.
    """
    return settled(lambda: _local_folder(address, without))


def _local_folder(address: str, without: Collection[str]) -> Path:
    there = find(address)
    if not there:
        raise InputError(f"{address}: is not there; check the name of the bucket and of the file or folder in it")
    if "" in there:
        return local_copies().path(address, there[""].stamp)
    place = default_cache_dir() / "fetched" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:32]
    folder, notes = place / (address.rstrip("/").rpartition("/")[2] or "folder"), place / "stamps.json"
    try:
        known = json.loads(notes.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    wanted = {
        name: stored.stamp
        for name, stored in there.items()
        if not {*name.split("/")} & {*without} and not any(part.startswith(".") for part in name.split("/"))
    }
    for name in known.keys() - wanted.keys():
        (folder / name).unlink(missing_ok=True)
    changed = [name for name in wanted if known.get(name) != wanted[name] or not (folder / name).is_file()]
    write_atomic(notes, json.dumps({name: wanted[name] for name in wanted if name not in changed}).encode())
    download_files(address, changed, folder)
    write_atomic(notes, json.dumps(wanted).encode())
    return folder
