"""Captions, licences and authors of meshes: from a captions file, a sidecar beside the mesh, or the mesh's name."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from texdiff.data.rows import caption_of, read_rows, read_text
from texdiff.errors import InputError, one_line

NAMES = ("captions.jsonl", "captions.csv")


@dataclass(frozen=True, kw_only=True)
class Credit:
    """One mesh: its captions, in order, its licence (SPDX where the source uses it), its author."""

    texts: tuple[str, ...] = ()
    license: str | None = None
    author: str | None = None


@dataclass
class CaptionFile:
    """A captions file, looked up by mesh path; remembers which of its lines were never used."""

    path: Path
    credits: dict[str, Credit]
    unused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._root = os.path.join(os.path.realpath(self.path.parent), "")

    def find(self, mesh: Path, label: str) -> Credit | None:
        """The line about `mesh`: its path relative to the file's folder, else `label` (relative to the SOURCE)."""
        real = os.path.realpath(mesh)
        path = real.removeprefix(self._root) if real.startswith(self._root) else str(mesh)
        for name in (path.replace(os.sep, "/"), label):
            if name in self.credits:
                self.unused.discard(name)
                return self.credits[name]
        return None


def read_captions(path: Path) -> CaptionFile:
    """Read a `.jsonl` or `.csv` with the keys mesh (or file_name), text, license, author; only the first is needed.

    `text` is a string or, in `.jsonl`, a list; several lines about one mesh add up. Raises InputError with the line's
    number where the file is not like that.
    """
    credits: dict[str, Credit] = {}
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise InputError(f"{path}: captions must be in a .jsonl or .csv file")
    for number, row in read_rows(path):
        where = f"{path}, line {number}"
        if isinstance(row, str):
            raise InputError(f"{where}: {row}")
        mesh = row.get("mesh") or row.get("file_name")
        if not isinstance(mesh, str):
            keys = ", ".join(f'"{key}"' for key in list(row)[:4])
            raise InputError(f'{where}: no "mesh" (its keys: {keys}); give each line the path of a mesh as "mesh"')
        texts = caption_of(row) or []
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f'{where}: "text" must be a string or a list of strings')
        for key in ("license", "author"):
            if not isinstance(row.get(key), str | None):
                raise InputError(f'{where}: "{key}" must be a string')
        name = Path(mesh.replace("\\", "/")).as_posix()
        before = credits.get(name, Credit())
        credits[name] = Credit(
            texts=tuple(dict.fromkeys([*before.texts, *(one_line(text) for text in texts if text.strip())])),
            license=row.get("license") or before.license,
            author=row.get("author") or before.author,
        )
    if not credits:
        raise InputError(f"{path}: contains no captions; write one line per mesh, or omit the file")
    return CaptionFile(path, credits, set(credits))


def find_captions(folder: Path) -> CaptionFile | None:
    """The captions file at the root of a source folder, if there is one."""
    for name in NAMES:
        if (folder / name).is_file():
            return read_captions(folder / name)
    return None


def read_sidecar(path: Path, suffix: str = ".txt") -> tuple[str, ...]:
    """Captions in a `.txt` beside a mesh or image (same name), one a line; none where there is no such file."""
    sidecar = path.with_name(path.stem + suffix)
    if not sidecar.is_file():
        return ()
    lines = read_text(sidecar).split("\n")
    return tuple(dict.fromkeys(one_line(line) for line in lines if line.strip()))


def caption_from_name(stem: str) -> str:
    """`oldOakTable_02` -> `old oak table`: split at capitals, underscores and digits, lower case."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", stem))
    return " ".join(words).lower() or stem.lower()
