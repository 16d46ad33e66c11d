"""A new texture for a mesh: which of the mesh's textures it replaces, the void filled, the result as GLB."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.inference import glb
from texdiff.inference.glb.base_color import set_base_color
from texdiff.inference.glb.from_scene import from_scene
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill
from texdiff.uv.image import ImageError, open_image, read_image
from texdiff.uv.layout.draw import Surface
from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.atlases import Atlas, read_atlases
from texdiff.uv.meshes.scene import read_scene
from texdiff.uv.seams.edges import EdgePairs, MeshEdges
from texdiff.uv.seams.level import close_seams


@dataclass(frozen=True, kw_only=True)
class RetextureTarget:
    """A mesh that is to get a new texture, read and checked."""

    path: Path
    surface: Surface  # where the texture lands
    parts: tuple[str, ...]  # keys of read_scene(path).geometry that will show it
    replaced: NDArray[np.uint8] | None  # [H, W, 3], the texture that is replaced; None where the mesh had none
    choice: str  # one line for the user: what is replaced, what stays

    @property
    def triangles(self) -> NDArray[np.float64]:
        """[F, 3, 2] in UV units, v up."""
        return self.surface.triangles


def retexture(mesh: str | Path, texture: NDArray[np.uint8], output: str | Path) -> None:
    """Write `mesh` with `texture` (uint8 [H, W, 3], row 0 = v near 1) in place of its own to `output` as GLB.

    Of several base-colour textures the one on the most surface is replaced; a printed line says which.

    Raises:
        InputError: the mesh cannot be read or has no UV map, or `output` cannot be written.
    """
    target = read_target(Path(mesh))
    print(target.choice, *check_retexture(target), sep="\n")
    write_output(Path(output), retextured_glb(target, finish_texture(target, texture)))


def read_target(path: Path) -> RetextureTarget:
    """Read the mesh and choose the texture to replace: the only one, or else the one on the most surface.

    A mesh with a UV map and no texture at all gets the new one wherever it has UV coordinates.

    Raises:
        InputError: the mesh cannot be read, or has no UV map.
    """
    found = read_atlases(path)
    atlases = sorted(found.atlases, key=lambda atlas: -float(atlas.mesh_area.sum()))
    if atlases:
        triangles, parts, replaced = atlases[0].triangles, atlases[0].parts, atlases[0].texture
        corners, normals = atlases[0].corners, atlases[0].normals
    else:
        mapped = [part for part in read_parts(path) if part.uv is not None and len(part.faces)]
        if not mapped:
            raise InputError(f"{path}: no UV map, so it cannot be textured; unwrap the mesh first")
        triangles = np.concatenate([part.triangles() for part in mapped])
        corners, normals = (np.concatenate(each) for each in zip(*(part.corners() for part in mapped), strict=True))
        parts, replaced = tuple(part.key for part in mapped), None
    if not len(triangles):
        reason = "all its UV coordinates lie outside [0, 1], where its texture does not repeat, so no texel is on it"
        raise InputError(f"{path}: {reason}; unwrap the mesh again")
    if not np.isfinite(triangles).all(axis=(1, 2)).any():
        raise InputError(f"{path}: its UV coordinates are not finite numbers; unwrap the mesh again")
    surface = Surface(triangles=triangles, corners=corners, normals=normals, bounds=found.bounds)
    return RetextureTarget(path=path, surface=surface, parts=parts, replaced=replaced, choice=_choice(path, atlases))


def _choice(path: Path, atlases: list[Atlas]) -> str:
    if not atlases:
        return f"{path.name}: had no texture; every part with UV coordinates gets the new one"
    line = f"{path.name}: the new texture replaces {atlases[0].name}"
    if len(atlases) > 1:
        total = max(sum(float(atlas.mesh_area.sum()) for atlas in atlases), 1e-30)
        share = float(atlases[0].mesh_area.sum()) / total
        line += f" (on {share:.0%} of the textured surface); {', '.join(a.name for a in atlases[1:])} stay"
        line += "s" if len(atlases) == 2 else ""
    return line


def read_seams(target: RetextureTarget) -> EdgePairs:
    """The cut edges of the parts that show the texture; where it does not repeat, those within [0, 1] alone.

    Raises:
        InputError: the mesh can no longer be read.
    """
    edges = MeshEdges(target.path, target.parts)
    seams = edges.seams
    within = ((seams.uv >= 0) & (seams.uv <= 1)).all(axis=(1, 2, 3)) | (edges.wrap == ("repeat", "repeat"))
    return EdgePairs(seams.uv[within], seams.length[within])


def finish_texture(
    target: RetextureTarget, texture: NDArray[np.uint8], seams: EdgePairs | None = None, fill_void: bool = True
) -> NDArray[np.uint8]:
    """A drawn texture as the mesh gets it: `seams` closed, where there are any to close, and the void filled from the
    islands; every texel that the UV map touches at all belongs to them."""
    touched = coverage_mask(target.triangles, texture.shape[:2], mode="conservative")
    if seams is not None:
        texture = close_seams(texture, touched, seams)
    return fill(texture, touched) if fill_void else texture


def check_retexture(target: RetextureTarget) -> list[str]:
    """Whether the mesh can be written with a new texture, and a line for each image that it names in vain: left out.

    Raises:
        InputError: it cannot.
    """
    retextured_glb(target, np.zeros((8, 8, 3), np.uint8))
    is_gltf = target.path.suffix.lower() in (".glb", ".gltf")
    return [f"{target.path.name}: {line}; left out" for line in glb.read(target.path).missing] if is_gltf else []


def retextured_glb(target: RetextureTarget, texture: NDArray[np.uint8]) -> bytes:
    """The mesh with `texture` (uint8 [H, W, 3]) as its base colour, as the bytes of a GLB.

    Raises:
        InputError: the mesh can no longer be read, or something in it that no texture needs is not sound.
    """
    try:
        return _retextured(target, texture)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Reading its textures needs little of a glTF file; to write all of it again, all of it must be valid.
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{target.path}: not a valid mesh file ({reason}); export the mesh again") from None


def _retextured(target: RetextureTarget, texture: NDArray[np.uint8]) -> bytes:
    if target.path.suffix.lower() in (".glb", ".gltf"):
        asset = glb.read(target.path)
        primitives = _showing(asset, target.replaced)
    else:
        asset = from_scene(read_scene(target.path))
        named = {mesh["name"]: mesh["primitives"][0] for mesh in asset.tree["meshes"]}
        primitives = [named[part] for part in target.parts]
    for opacity, alike in _by_opacity(asset, primitives):
        set_base_color(asset, alike, encode_png(texture, opacity))
    return glb.pack(asset)


def _showing(asset: glb.EditableGltf, replaced: NDArray[np.uint8] | None) -> list[glb.Json]:
    """The primitives of a glTF file whose base colour shows these texels; with None, all that have UV coordinates."""
    primitives = [p for mesh in asset.tree["meshes"] for p in mesh["primitives"]]
    primitives = [p for p in primitives if p.get("mode", 4) in glb.TRIANGLE_MODES]
    if replaced is None:
        return [p for p in primitives if "TEXCOORD_0" in p["attributes"]]
    shown = []
    for material in asset.tree["materials"]:
        encoded = glb.base_color_image(asset, material)
        try:
            shown.append(encoded is not None and np.array_equal(read_image(encoded), replaced))
        except ImageError:
            shown.append(False)
    return [p for p in primitives if "material" in p and shown[p["material"]]]


def _by_opacity(asset: glb.EditableGltf, primitives: list[glb.Json]) -> list[tuple[Image.Image | None, list[glb.Json]]]:
    """The primitives by the alpha of the texture that is replaced, which is a map of its own (foliage, lattices), so
    kept: images of the same RGB may differ in it. Those of opaque materials, which ignore it, join the first."""
    groups: dict[bytes, tuple[Image.Image | None, list[glb.Json]]] = {}
    opaque = []
    for primitive in primitives:
        material = asset.tree["materials"][primitive["material"]] if "material" in primitive else {}
        if material.get("alphaMode", "OPAQUE") == "OPAQUE":
            opaque.append(primitive)
            continue
        encoded = glb.base_color_image(asset, material)
        image = None if encoded is None else open_image(encoded)
        alpha = image.convert("RGBA").getchannel("A") if image is not None and image.has_transparency_data else None
        key = b"" if alpha is None else str(alpha.size).encode() + alpha.tobytes()
        groups.setdefault(key, (alpha, []))[1].append(primitive)
    if opaque and not groups:
        groups[b""] = None, []
    if opaque:
        next(iter(groups.values()))[1].extend(opaque)
    return list(groups.values())


def encode_png(texture: NDArray[np.uint8], opacity: Image.Image | None = None) -> bytes:
    """uint8 [H, W, 3] as the bytes of a PNG, with `opacity` as its alpha channel where given."""
    image = Image.fromarray(texture)
    if opacity is not None:
        image.putalpha(opacity.resize(image.size, Image.Resampling.BILINEAR))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_output(output: Path, data: bytes) -> None:
    """Write the whole file, or nothing.

    Raises:
        InputError: it cannot be written there.
    """
    try:
        write_atomic(output, data)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); choose another --output") from None
