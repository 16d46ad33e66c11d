"""Mesh files, read as parts: triangles of one material each, with the UV map of its base-colour texture."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from texdiff.errors import InputError

if TYPE_CHECKING:
    from texdiff.uv.meshes.part import Part

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".dae")


def read_parts(path: Path) -> "list[Part]":
    """The mesh file as parts.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        what = f"meshes in {path.suffix} are not read" if path.suffix else "the name has no suffix"
        raise InputError(f"{path}: {what}; use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a mesh ({', '.join(SUFFIXES)})")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy or export it again")
        return load_readers()[path.suffix.lower()](path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory; split the mesh") from None


def load_readers() -> "dict[str, Callable[[Path], list[Part]]]":
    """The reader of each suffix. They are imported here: trimesh and scipy take half a second, which training without
    meshes has no use for."""
    from texdiff.uv.meshes.dae import read_dae
    from texdiff.uv.meshes.gltf.parts import read_gltf
    from texdiff.uv.meshes.obj import read_obj
    from texdiff.uv.meshes.ply import read_ply

    return {".glb": read_gltf, ".gltf": read_gltf, ".obj": read_obj, ".ply": read_ply, ".dae": read_dae}
