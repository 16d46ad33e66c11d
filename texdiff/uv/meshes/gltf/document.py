"""Open glTF 2.0 files: the JSON document, its buffers, and accessors as arrays; nothing is believed unchecked."""

import base64
import binascii
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError, one_line
from texdiff.uv.meshes.find_file import find_file
from texdiff.uv.meshes.part import PartError

MAX_BYTES = 4 << 30  # a GLB cannot hold more: its lengths are 32 bits
MAX_ELEMENTS = 1 << 26  # of an accessor without data of its own, which would be all zeros: 1 GiB of positions
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942


def dig(value: Any, *path: str | int, kind: type | tuple[type, ...] = object, default: Any = None) -> Any:
    """A value deep in JSON; ``default`` where a step is missing or the value has another type."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str) and step in value:
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and not isinstance(step, bool):
            if not 0 <= step < len(value):
                return default
            value = value[step]
        else:
            return default
    unfit = isinstance(value, bool) and kind is not bool and kind is not object  # True is not a number
    return value if isinstance(value, kind) and not unfit else default


def numbers(value: Any, count: int) -> NDArray[np.float64] | None:
    """A list of that many numbers, each one that float32 can hold, else None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    try:
        array = np.array(value, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return array if (np.abs(array) <= np.finfo(np.float32).max).all() else None


@dataclass(frozen=True, eq=False)
class Document:
    """One glTF file."""

    path: Path
    tree: dict[str, Any]
    binary: bytes  # the GLB's own chunk, else empty
    read: dict[str, bytes] = field(default_factory=dict)  # buffers by URI, as far as they were needed

    def objects(self, key: str) -> list[dict[str, Any]]:
        """A top-level array; InputError where it is not an array of objects."""
        items = self.tree.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InputError(f"{self.path}: {key!r} is not an array of objects; export the mesh again")
        return items

    def uri(self, uri: str) -> bytes | Path:
        """What a URI holds: bytes of a data URI, or the file it names.

        Raises:
            PartError: neither.
        """
        if uri.startswith("data:"):
            header, comma, payload = uri.partition(",")
            try:
                if comma:
                    return base64.b64decode(payload) if header.endswith(";base64") else unquote_to_bytes(payload)
            except (binascii.Error, ValueError):
                pass
            raise PartError("holds a data URI that cannot be decoded")
        found = find_file(uri, [self.path.parent])
        if found is not None:
            return found
        try:
            there = (self.path.parent / unquote(uri)).is_file()
        except (OSError, ValueError):
            there = False
        if there:
            raise PartError(f"names the file {uri[:200]}, which lies too far from the mesh to be followed")
        raise PartError(f"names the file {uri[:200]}, which does not exist")

    def view(self, index: Any) -> bytes:
        """Bytes of a buffer view.

        Raises:
            PartError: there is no such view, it is compressed, or it extends beyond its buffer.
        """
        view = dig(self.tree, "bufferViews", index, kind=dict)
        if view is None:
            raise PartError(f"names the buffer view {index}, which does not exist")
        data = self._buffer(view.get("buffer"))
        for extension in MESHOPT:
            # The buffer that the view itself names is the fallback, for programs like this one, and may have no data.
            if not data and extension in dig(view, "extensions", kind=dict, default={}):
                raise PartError(
                    f"is compressed ({extension}), without the data as fallback; export without compression"
                )
        start, length = view.get("byteOffset", 0), view.get("byteLength")
        if not (isinstance(start, int) and isinstance(length, int) and 0 <= start <= start + length <= len(data)):
            raise PartError(f"needs bytes {start} + {length} of a buffer of {len(data)}: the file is damaged")
        return data[start : start + length]

    def _buffer(self, index: Any) -> bytes:
        buffer = dig(self.tree, "buffers", index, kind=dict)
        if buffer is None:
            raise PartError(f"names the buffer {index}, which does not exist")
        uri = buffer.get("uri")
        if not isinstance(uri, str):
            return self.binary if index == 0 else b""
        if uri not in self.read:
            found = self.uri(uri)
            if isinstance(found, Path) and found.stat().st_size > MAX_BYTES:
                raise PartError(f"names the file {uri[:200]}, which is larger than the limit of {MAX_BYTES} bytes")
            self.read[uri] = found.read_bytes() if isinstance(found, Path) else found
        return self.read[uri]

    def accessor(self, index: Any, columns: int) -> NDArray[np.float64]:
        """An accessor's values, normalised integers as fractions: float64 [n, columns].

        Raises:
            PartError: it does not exist, has another number of columns, or claims what the file does not hold.
        """
        stored = self.stored(index, columns)
        with np.errstate(invalid="ignore"):  # signalling NaN is NaN, and what it means is decided later
            values = stored.astype(np.float64)
        if dig(self.tree, "accessors", index, "normalized") is True and stored.dtype.kind in "iu":
            values = np.maximum(values / np.iinfo(stored.dtype).max, -1.0)
        return values

    def stored(self, index: Any, columns: int | None = None) -> NDArray[Any]:
        """An accessor's values as they are stored, [n, columns]; raises as `accessor`."""
        accessor = dig(self.tree, "accessors", index, kind=dict)
        if accessor is None:
            raise PartError(f"names the accessor {index}, which does not exist")
        dtype = COMPONENTS.get(dig(accessor, "componentType", kind=int, default=-1))
        count = dig(accessor, "count", kind=int, default=-1)
        has = COLUMNS.get(str(accessor.get("type")))
        if columns is None:
            columns = has
        if dtype is None or count < 0 or columns is None or has != columns:
            raise PartError(f"has an accessor ({index}) of an unknown or unfit type")
        if "bufferView" in accessor:
            start = dig(accessor, "byteOffset", kind=int, default=0)
            stored = self._array(accessor["bufferView"], start, dtype, count, columns)
        elif count * columns > MAX_ELEMENTS:
            raise PartError(f"has an accessor ({index}) that claims {count} elements without data")
        else:
            stored = np.zeros((count, columns), dtype=dtype)
        sparse = accessor.get("sparse")
        return stored if sparse is None else self._with_sparse(stored, sparse)

    def _array(self, view: Any, start: int, dtype: str, count: int, columns: int) -> NDArray[Any]:
        data = self.view(view)
        row = np.dtype(dtype).itemsize * columns
        stride = dig(self.tree, "bufferViews", view, "byteStride", kind=int, default=row) or row
        if count == 0:
            return np.zeros((0, columns), dtype=dtype)
        if start < 0 or stride < row or start + (count - 1) * stride + row > len(data):
            raise PartError(f"claims {count} elements, more than its buffer view of {len(data)} bytes holds")
        raw = np.frombuffer(data, dtype=np.uint8)
        rows = np.lib.stride_tricks.as_strided(raw[start:], (count, row), (stride, 1))
        return np.ascontiguousarray(rows).view(dtype)

    def _with_sparse(self, stored: NDArray[Any], sparse: Any) -> NDArray[Any]:
        count = dig(sparse, "count", kind=int, default=-1)
        dtype = COMPONENTS.get(dig(sparse, "indices", "componentType", kind=int, default=-1))
        if dtype is None or not 0 <= count <= len(stored):
            raise PartError("has a sparse accessor that cannot be understood")
        places, values = dig(sparse, "indices", kind=dict, default={}), dig(sparse, "values", kind=dict, default={})
        start = [dig(item, "byteOffset", kind=int, default=0) for item in (places, values)]
        where = self._array(places.get("bufferView"), start[0], dtype, count, 1).astype(np.int64)[:, 0]
        if count and not 0 <= where.min() <= where.max() < len(stored):
            raise PartError("has a sparse accessor with an index out of range")
        stored = stored.copy()
        stored[where] = self._array(values.get("bufferView"), start[1], stored.dtype.str, count, stored.shape[1])
        return stored


def open_gltf(path: Path) -> Document:
    """Read a .glb or .gltf file as far as its JSON goes.

    Raises:
        InputError: it is not a glTF 2.0 file, or a truncated one.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit of {MAX_BYTES}; split the mesh")
    return parse_gltf(path, path.read_bytes())


def parse_gltf(path: Path, data: bytes) -> Document:
    """As `open_gltf`, of a file's content."""
    text, binary = _chunks(path, data) if data[:4] == b"glTF" else (data, b"")
    try:
        tree = json.loads(text.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        what = "neither GLB nor glTF JSON" if text is data else "a GLB whose JSON is damaged"
        reason = one_line(error)[:120]
        raise InputError(f"{path}: is {what} ({reason}); export or copy it again") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: its JSON is not an object; export it again as glTF 2.0")
    version = str(dig(tree, "asset", "version", default="missing"))
    if version.partition(".")[0] != "2":
        raise InputError(f"{path}: glTF version is {version[:20]}; export it as glTF 2.0")
    return Document(path, tree, binary)


def _chunks(path: Path, data: bytes) -> tuple[bytes, bytes]:
    """JSON and binary chunk of a GLB."""
    if len(data) < 20:
        raise InputError(f"{path}: is truncated ({len(data)} bytes are not a GLB); copy or export it again")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise InputError(f"{path}: GLB version is {version}; export it as glTF 2.0")
    # Some exporters leave out the padding of a chunk to 4 bytes, some count it all the same.
    if length > len(data) + 3:
        raise InputError(f"{path}: is truncated ({len(data)} of {length} bytes); copy or export it again")
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        size, kind = struct.unpack_from("<II", data, at)
        if at + 8 + size > len(data) + 3:
            raise InputError(f"{path}: a chunk claims {size} bytes, more than the file has; copy or export it again")
        found.setdefault(kind, data[at + 8 : at + 8 + size])
        at += 8 + size
        padded = at + -size % 4
        if padded != at and not (data[at + 4 : at + 8] == b"BIN\0" and data[padded + 4 : padded + 8] != b"BIN\0"):
            at = padded
    if JSON_CHUNK not in found:
        raise InputError(f"{path}: is a GLB without a JSON chunk; export it again")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK, b"")
