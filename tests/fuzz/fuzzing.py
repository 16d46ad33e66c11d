"""Mutations of files, and one try of a reader on a mutated input."""

import json
import re
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from texdiff.errors import InputError

TIME_LIMIT = 20.0  # seconds an input may take, on a machine that does other things too
ODD = [None, True, -1, 0, 1, 2**31, 10**30, 1e308, -1e-308, float("nan"), float("inf"), "", "x", "../../../etc/passwd"]
ODD += ["\0", "é\n<script>", [], {}, [[]], [None], {"a": {}}, "9" * 400, [1] * 3000]
HUGE = [b"1e400", b"-1", b"99999999999999999999", b"nan", b"0", b"0.0000001", b"2147483648", b"-inf", b"1_0"]
Files = dict[str, bytes]
Rng = np.random.Generator


class Hang(BaseException):
    """An input took longer than TIME_LIMIT. No Exception, so that no reader takes it for damage."""


@dataclass(frozen=True)
class Reader:
    """What reads a folder: `read` raises InputError, or returns. `seeds` are sound folders, `targets` the files in
    them that are mutated."""

    name: str
    seeds: Callable[[], list[Files]]
    targets: str  # a regular expression
    read: Callable[[Path], Any]
    share: float = 1.0  # of the tries that others get
    kept: dict[str, list[Files]] = field(default_factory=dict)

    def folders(self) -> list[Files]:
        """The seeds, made once."""
        if not self.kept:
            self.kept["seeds"] = self.seeds()
        return self.kept["seeds"]


def mutate(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """`data` with one to three things done to it; `others` are files of any kind to splice in, or to stand for it."""
    kinds = [_flip, _cut, _drop, _repeat, _fill, _numbers, _json, _json, _splice, _empty]
    for _ in range(int(rng.integers(1, 4))):
        kind = kinds[int(rng.integers(len(kinds)))]
        data = kind(data, rng, others)
    return data


def _span(data: bytes, rng: Rng) -> tuple[int, int]:
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(2 ** rng.uniform(0, 12)))


def _flip(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    # Headers are short and decide most, so half of the flips go there.
    end = len(data) if rng.random() < 0.5 else min(len(data), 200)
    for _ in range(int(rng.integers(1, 17)) if end else 0):
        changed[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _drop(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 20)) + data[end:]


def _fill(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + [b"\0", b"\xff", b"{", b"9"][int(rng.integers(4))] * (end - start) + data[end:]


def _numbers(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    places = list(re.finditer(rb"-?\d+(\.\d+)?", data[:200_000]))
    for place in sorted(rng.choice(len(places), min(len(places), 3), replace=False), reverse=True) if places else []:
        start, end = places[place].span()
        data = data[:start] + HUGE[int(rng.integers(len(HUGE)))] + data[end:]
    return data


def _splice(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    other = others[int(rng.integers(len(others)))]
    if rng.random() < 0.3:
        return other  # swapped files
    start, end = _span(other, rng)
    at, _ = _span(data, rng)
    return data[:at] + other[start:end] + data[at:]


def _empty(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    return b"" if rng.random() < 0.3 else _flip(data, rng, others)


def _json(data: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """A value somewhere in the JSON replaced: of a file, of a line, of GLB's first chunk, of safetensors' header."""
    try:
        if data[:4] == b"glTF":
            (length,) = struct.unpack_from("<I", data, 12)
            text = _odd_json(data[20 : 20 + length], rng)
            text += b" " * (-len(text) % 4)
            rest = data[20 + length :]
            head = struct.pack("<4sIII", b"glTF", 2, 20 + len(text) + len(rest), len(text)) + data[16:20]
            return head + text + rest
        if data[8:9] == b"{":
            (length,) = struct.unpack_from("<Q", data)
            text = _odd_json(data[8 : 8 + length], rng)
            return struct.pack("<Q", len(text)) + text + data[8 + length :]
        if data[:1] in (b"{", b"["):
            lines = data.splitlines(keepends=True)
            try:
                return _odd_json(data, rng)
            except ValueError:
                line = int(rng.integers(len(lines)))
                lines[line] = _odd_json(lines[line], rng) + b"\n"
                return b"".join(lines)
    except (ValueError, struct.error):
        pass
    return _numbers(data, rng, others)


def _odd_json(text: bytes, rng: Rng) -> bytes:
    tree = json.loads(text)
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        places += [(node, key) for key, _ in items]
        waiting += [value for _, value in items]
    if not places:
        return json.dumps(ODD[int(rng.integers(len(ODD)))]).encode()
    node, key = places[int(rng.integers(len(places)))]
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = ODD[int(rng.integers(len(ODD)))]
    return json.dumps(tree).encode()


def attempt(reader: Reader, number: int, folder: Path, others: list[bytes]) -> str:
    """Read mutated input `number`: returns "read" or "refused: ...". Any other exception is what we are looking for."""
    rng = np.random.default_rng([number, *reader.name.encode()])
    files = dict(reader.folders()[int(rng.integers(len(reader.folders())))])
    names = [name for name in sorted(files) if re.fullmatch(reader.targets, name)]
    for name in rng.choice(names, size=1 if rng.random() < 0.8 else min(2, len(names)), replace=False):
        files[str(name)] = mutate(files[str(name)], rng, others)
        if rng.random() < 0.03:
            del files[str(name)]
    write(files, folder)
    try:
        with time_limit(TIME_LIMIT):
            reader.read(folder)
    except InputError as error:
        text = str(error)
        assert "\n" not in text, text
        assert len(text) < 2000, text
        return f"refused: {text}"
    return "read"


def write(files: Files, folder: Path) -> None:
    """Write a folder of files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Hang inside after so many seconds."""

    def ring(*_: object) -> None:
        raise Hang(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def naming(*words: object) -> Iterator[None]:
    """An InputError inside has one of these words in it."""
    try:
        yield
    except InputError as error:
        if not any(str(word) in str(error) for word in words):
            raise AssertionError(f"names none of {words}: {error}") from None
        raise


def jsonl(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def files_of(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
