"""A folder on this disk, and the same in storage: only what has changed goes there.

Some files make those beside them count, such as a checkpoint's list of sums. These markers are written last, and
deleted first where files beside them are to change, so that what a marker stands for is complete in storage or absent.
What has been sent is noted by size, time and content, so that a connection that breaks costs nothing: the rest follows
next time.
"""

import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Collection
from pathlib import Path

from texdiff import storage
from texdiff.errors import InputError
from texdiff.files import remove, write_atomic

NOTES = ".storage.json"  # in the folder, where it is not to be elsewhere
WRITER = ".writer"  # in storage: who has written there last
_AT_ONCE = 64  # files that are sent before they are noted
_NOTED = 5.0  # seconds from one time that notes are written to the next

Note = tuple[int, int, str]
"""Size, time in ns, and SHA-256 of a file that was sent."""


class TakenOver(InputError):
    """Somebody else writes to the same place in storage."""


class Mirror:
    """`folder`, which may not be there yet, and what it holds at `address`.

    Args:
        markers: names of files, the last parts of their paths.
        marked: a folder in it, each of whose folders counts only with a marker in it.
        replaces: all that is there is the folder's: what it does not have is deleted, and what changes is, first.
        without: files at the top of the folder that are not sent.
        notes: where it is noted what was sent; in the folder, if it is not said.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        markers: Collection[str],
        *,
        marked: str = "",
        replaces: bool = False,
        without: Collection[str] = (),
        notes: Path | None = None,
    ) -> None:
        self.folder, self.address, self.markers, self.marked = folder, address, markers, marked
        self.replaces, self.without = replaces, without
        self.notes = notes or folder / NOTES
        self.writer: str | None = None
        self.sent: dict[str, Note] = {}
        self._since = 0.0
        try:
            noted = json.loads(self.notes.read_text("utf-8"))
            self.writer, self.sent = noted["writer"], {name: tuple(note) for name, note in noted["sent"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # nothing is known to have been sent

    def bring(self) -> None:
        """Have the folder as it is in storage, where somebody else has written there since, or nobody has this folder.

        What the folder holds then and was never sent stays beside it, under another name, which is said. Raises
        InputError where storage cannot be read, with the folder as it was.
        """
        storage.settled(self._bring)

    def _bring(self) -> None:
        there = storage.find(self.address)
        who = storage.read(self._at(WRITER)).decode("ascii", "replace") if WRITER in there else None
        if (who is not None and who == self.writer) or not (there or self.sent):
            return
        names = [name for name in there if not _is_hidden(name)]
        begun = {name for name in names if self._is_begun(name, there)}
        aside = self.folder.with_name(f".{self.folder.name}.brought")
        shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
        try:
            aside.mkdir(parents=True)
            storage.download_files(self.address, [name for name in names if name not in begun], aside)
            if any(self._changed(name) for name in self._files()):
                kept = _free(self.folder)
                self.folder.rename(kept)
                said = f"{self.address}: has changed since; what was not sent there is kept in {kept}"
                print(said, file=sys.stderr, flush=True)
            remove(self.folder)
            aside.rename(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self.writer = None
        self.sent = {name: (0, 0, "") if name in begun else self._note(name) for name in names}
        self._keep()

    @property
    def is_writer(self) -> bool:
        """Whether it is noted here that this folder is what counts in storage; another may have said so since."""
        return self.writer is not None

    def begin(self) -> None:
        """Say in storage that this folder is what counts there."""
        there = storage.find(self.address)
        sizes = {name: stored.size for name, stored in there.items()}
        self.sent = {name: note for name, note in self.sent.items() if not note[2] or sizes.get(name) == note[0]}
        if self.replaces:
            self.sent = {name: (0, 0, "") for name in sizes if not _is_hidden(name)} | self.sent
        self.writer = self.writer or secrets.token_hex(16)
        self._keep()
        storage.write(self._at(WRITER), self.writer.encode())

    def send(self) -> None:
        """Have in storage what the folder holds now, and no more what it held when it was sent before. After `begin`.

        Raises InputError; the next call makes up for what was not sent. Where somebody else has begun to write to the
        same place it is TakenOver, and nothing is changed there.
        """
        if storage.read(self._at(WRITER)).decode("ascii", "replace") != self.writer:
            raise TakenOver(
                f"{self.address}: another process has begun to write there; what this one has done is in {self.folder}"
            )
        try:
            self._send()
        finally:
            self._keep()

    def lacks(self, folder: str) -> bool:
        """Whether a file beneath this folder of it has not been sent as it is."""
        return any(name.startswith(f"{folder}/") and self._changed(name) for name in self._files())

    def _send(self) -> None:
        there = [*self._files()]
        changed = {name: note for name in there if (note := self._changed(name)) is not None}
        others = sorted(name for name in changed if not self._is_marker(name))
        for name in sorted({*self.sent} & {*changed} - {*others}):
            if any(other.startswith(name.removesuffix(name.rpartition("/")[2])) for other in others):
                self._delete(name)
        for name in sorted({*self.sent} & {*others}) if self.replaces else ():
            self._delete(name)
        groups = [others[start : start + _AT_ONCE] for start in range(0, len(others), _AT_ONCE)]
        for group in [*groups, *([name] for name in sorted({*changed} - {*others}, reverse=True))]:
            storage.upload_files(self.folder, group, self.address, lambda name: self.sent.update({name: changed[name]}))
            if time.monotonic() > self._since + _NOTED:
                self._keep()
        for name in sorted({*self.sent} - {*there}, key=lambda name: (not self._is_marker(name), name)):
            self._delete(name)

    def _delete(self, name: str) -> None:
        storage.remove(self._at(name))
        del self.sent[name]

    def _changed(self, name: str) -> Note | None:
        """What is to be noted of a file once it is sent; None where it has been, as it is."""
        sent = self.sent.get(name)
        status = (self.folder / name).stat()
        if sent is not None and sent[:2] == (status.st_size, status.st_mtime_ns):
            return None
        note = self._note(name)
        if sent is None or sent[2] != note[2]:
            return note
        self.sent[name] = note
        return None

    def _note(self, name: str) -> Note:
        with (self.folder / name).open("rb") as file:
            status = os.fstat(file.fileno())
            return status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()

    def _files(self) -> list[str]:
        """The names of all visible files, sorted."""
        found = []
        for root, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(root, name).relative_to(self.folder).as_posix() for name in names if not _is_hidden(name)]
        return sorted({*found} - {*self.without})

    def _is_marker(self, name: str) -> bool:
        return name.rpartition("/")[2] in self.markers

    def _is_begun(self, name: str, there: Collection[str]) -> bool:
        """Whether a file in storage is of what somebody has begun to write, or to delete."""
        first, *parts = name.split("/")
        marked = bool(self.marked) and first == self.marked and len(parts) > 1
        return marked and not any(f"{first}/{parts[0]}/{marker}" in there for marker in self.markers)

    def _at(self, name: str) -> str:
        return storage.join(self.address, name)

    def _keep(self) -> None:
        self._since = time.monotonic()
        content = json.dumps({"address": self.address, "writer": self.writer, "sent": self.sent})
        write_atomic(self.notes, content.encode(), durable=False)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _free(folder: Path) -> Path:
    """A name beside a folder that is not taken."""
    number = 1
    while (found := folder.with_name(f"{folder.name}-unsent-{number}")).exists():
        number += 1
    return found
