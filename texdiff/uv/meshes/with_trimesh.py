"""Read the formats that trimesh takes textures from beside glTF and OBJ: PLY, and DAE where pycollada is installed."""

import io
import logging
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError, one_line
from texdiff.uv.image import open_image
from texdiff.uv.meshes.part import ImageRef, Material, Part

MAX_BYTES = 1 << 30
logging.getLogger("trimesh").addHandler(logging.NullHandler())  # it would print tracebacks of images that are damaged


def read_with_trimesh(path: Path) -> list[Part]:
    """All parts of a mesh file, by trimesh. V points up.

    Raises:
        InputError: the file cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit of {MAX_BYTES}; split the mesh")
    try:
        scene = trimesh.load_scene(path, process=False)
    except Exception as error:  # trimesh raises anything at all on damaged files
        hint = "install pycollada or convert it to GLB" if path.suffix.lower() == ".dae" else "check the file"
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {one_line(error)}); {hint}") from None
    parts = []
    for key, mesh in scene.geometry.items():
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
            continue
        uv = getattr(mesh.visual, "uv", None)
        parts.append(
            Part(
                key=key,
                material=_material(key, getattr(mesh.visual, "material", None)),
                vertices=np.asarray(mesh.vertices, dtype=np.float64),
                faces=np.asarray(mesh.faces, dtype=np.int64),
                uv=None if uv is None else np.asarray(uv, dtype=np.float64),
                transforms=tuple(scene.graph[node][0] for node in scene.graph.geometry_nodes.get(key, [])),
            )
        )
    if not parts:
        raise InputError(f"{path}: holds no faces; give a mesh")
    return parts


def _material(key: str, material: object) -> Material:
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    name = str(getattr(material, "name", None) or key)

    ref = None
    # Where no image is named or found, trimesh makes one up (2 x 2, grey); it came from no file, so has no format.
    if isinstance(image, Image.Image) and image.format is not None:
        file_name = str(image.info.get("file_path", "")) or name
        ref = ImageRef(name=Path(file_name).name, source=_encoded(image))

    def to_pbr() -> PBRMaterial:
        texture = None if ref is None else open_image(ref.source)
        return PBRMaterial(name=name, baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)

    problem = "has no base-colour texture, or one that cannot be read"
    return Material(name=name, image=ref, problem=problem, to_pbr=to_pbr)


def _encoded(image: Image.Image) -> bytes:
    """The image as a file again, so that it passes the same checks as all others; empty where it is damaged."""
    buffer = io.BytesIO()
    try:
        plain = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
        plain.save(buffer, format="PNG")
    except (OSError, ValueError, SyntaxError):
        return b""
    return buffer.getvalue()
