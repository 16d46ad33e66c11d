"""UV triangles of the mesh formats in which games keep what the held-out atlases are worn by."""

import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Triangles = Iterator[tuple[str, list]]
"""Pairs of a texture's name as the mesh gives it and triangles of it: three (u, v), v up."""


def read_ac3d(path: Path) -> Triangles:
    """AC3D (.ac) and its variant with several texture layers and strips (.acc), of which the first layer is read.

    Format: https://www.inivis.com/ac3d/man/ac3dfileformat.html
    """
    lines = iter(path.read_text("latin-1").splitlines())
    texture, repeat, offset, kind = None, (1.0, 1.0), (0.0, 0.0), 0
    for line in lines:
        words = line.split()
        match words[:1]:
            case ["OBJECT"]:
                texture, repeat, offset = None, (1.0, 1.0), (0.0, 0.0)
            case ["texture"] if texture is None:
                texture = line.split('"')[1] if '"' in line else words[1]
            case ["texrep"]:
                repeat = float(words[1]), float(words[2])
            case ["texoff"]:
                offset = float(words[1]), float(words[2])
            case ["SURF"]:
                kind = int(words[1], 16) & 15
            case ["refs"]:
                values = [[float(x) for x in next(lines).split()[1:3]] for _ in range(int(words[1]))]
                corners = [(u * repeat[0] + offset[0], v * repeat[1] + offset[1]) for u, v in values]
                if texture and kind in (0, 4):
                    yield texture, _strip(corners) if kind == 4 else _fan(corners)


def read_pie(path: Path) -> Triangles:
    """PIE 2 (whole numbers out of 256) and PIE 3 (fractions), v down.

    Format: Warzone 2100's doc/PIE.md.
    """
    lines = path.read_text("latin-1").splitlines()
    scale = 256 if lines[0].split()[1] == "2" else 1
    texture = next((line.split(maxsplit=2)[2].split()[0] for line in lines if line.startswith("TEXTURE")), None)
    for line in lines:
        words = line.split()
        if not texture or not re.fullmatch(r"[0-9a-fA-F]+", words[0] if words else "") or len(words) < 11:
            continue
        flags, count = int(words[0], 16), int(words[1])
        if not flags & 0x200 or count < 3:
            continue
        first = 2 + count + (4 if flags & 0x4000 else 0)
        numbers = [float(x) / scale for x in words[first : first + 2 * count]]
        if len(numbers) == 2 * count:
            yield texture, _fan([(numbers[2 * i], 1 - numbers[2 * i + 1]) for i in range(count)])


def read_md3(path: Path) -> Triangles:
    """Quake 3's MD3, v down. A surface names its shader, which is its texture's name as a rule."""
    data = path.read_bytes()
    if data[:4] != b"IDP3":
        return
    count, surface = struct.unpack_from("<i", data, 84)[0], struct.unpack_from("<i", data, 100)[0]
    for _ in range(count):
        header = struct.unpack_from("<9i", data, surface + 76)
        shaders, vertices, faces, at_faces, at_shaders, at_uv, _, end = header[:8]
        triangles = np.frombuffer(data, "<i4", 3 * faces, surface + at_faces).reshape(-1, 3)
        uv = np.frombuffer(data, "<f4", 2 * vertices, surface + at_uv).reshape(-1, 2) * [1, -1] + [0, 1]
        if shaders and len(triangles) and triangles.max() < vertices:
            name = data[surface + at_shaders :][:64].split(b"\0")[0].decode("latin-1")
            yield name, uv[triangles].tolist()
        surface += end


READERS: dict[str, Callable[[Path], Triangles]] = {
    ".ac": read_ac3d,
    ".acc": read_ac3d,
    ".pie": read_pie,
    ".md3": read_md3,
}


class Wearers:
    """The triangles of all meshes of folders, by the texture that they wear."""

    def __init__(self, folders: list[Path]) -> None:
        self.by_path: dict[Path, list] = defaultdict(list)
        self.by_stem: dict[str, list] = defaultdict(list)
        for path in sorted(p for f in folders for p in f.rglob("*") if p.suffix in READERS):
            for name, triangles in READERS[path.suffix](path):
                name = name.replace("\\", "/")
                beside = (path.parent / name).resolve()
                if beside.is_file():
                    self.by_path[beside] += triangles
                self.by_stem[Path(name).stem.lower()] += triangles

    def of(self, picture: Path) -> np.ndarray:
        """Float [F, 3, 2], v up: of meshes that name this file, else of those that name its stem; F may be 0."""
        triangles = self.by_path.get(picture.resolve()) or self.by_stem.get(picture.stem.lower()) or []
        return np.array(triangles, dtype=np.float64).reshape(-1, 3, 2)


def _fan(corners: list) -> list:
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]


def _strip(corners: list) -> list:
    return [tuple(corners[i : i + 3]) for i in range(len(corners) - 2)]
