"""A mesh with a new texture, as GLB, as glTF with its files, or as OBJ with MTL and images."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.inference import glb
from texdiff.inference.glb.base_color import set_base_color
from texdiff.inference.glb.separate import separate
from texdiff.inference.obj.from_gltf import obj_from_gltf
from texdiff.inference.obj.rewrite import rewrite_obj
from texdiff.inference.target import GLTF, RetextureTarget, finish_texture, read_target
from texdiff.uv.image import ImageError, open_image, read_image
from texdiff.uv.meshes.gltf.document import parse_gltf


def retexture(mesh: str | Path, texture: NDArray[np.uint8], output: str | Path) -> None:
    """Write `mesh` with `texture` (uint8 [H, W, 3], row 0 = v near 1) in place of its own to `output`: a .glb, a .gltf
    or an .obj, with their files beside it.

    Of several base-colour textures the one on the most surface is replaced; a printed line says which.

    Raises:
        InputError: the mesh cannot be read or has no UV map, or `output` cannot be written.
    """
    target, output = read_target(Path(mesh)), Path(output)
    print(target.choice, *check_retexture(target, output), sep="\n")
    write_mesh(target, finish_texture(target, texture), output)


def check_retexture(target: RetextureTarget, output: Path) -> list[str]:
    """Whether the mesh can be written to `output` with a new texture, and a line for each map that is left out.

    Raises:
        InputError: it cannot, or a file beside `output` would take the place of one that the mesh itself is made of.
    """
    files, left_out, sources = _files(target, np.zeros((8, 8, 3), np.uint8), output)
    own = {source.resolve() for source in sources}
    for name in files:
        if output.with_name(name).resolve() in own and output.resolve() != target.path.resolve():
            raise InputError(
                f"--output {output}: would write {name} beside it over the mesh's own; choose another name or folder"
            )
    return [f"{target.path.name}: {line}" for line in left_out]


def write_mesh(target: RetextureTarget, texture: NDArray[np.uint8], output: Path) -> None:
    """Write the mesh with `texture`; the files beside `output` first.

    Raises:
        InputError: something in the mesh that no texture needs is not sound, or a file cannot be written.
    """
    for name, content in _files(target, texture, output)[0].items():
        write_output(output.with_name(name), content)


def retextured_glb(target: RetextureTarget, texture: NDArray[np.uint8]) -> bytes:
    """The mesh with `texture` (uint8 [H, W, 3]) as its base colour, as the bytes of a GLB. Raises as `write_mesh`."""
    return _files(target, texture, Path("mesh.glb"))[0]["mesh.glb"]


def _files(
    target: RetextureTarget, texture: NDArray[np.uint8], output: Path
) -> tuple[dict[str, bytes], list[str], list[Path]]:
    """What is written, by name, `output` itself last; a line for each map that is left out; and the files that the mesh
    was read from."""
    try:
        if output.suffix.lower() == ".obj" and target.path.suffix.lower() == ".obj" and target.unwrapped is None:
            files, left_out, sources = rewrite_obj(
                target.path, target.read, target.parts, encode_png(texture), output.stem
            )
        else:
            asset = target.asset.copy()
            for opacity, alike in _by_opacity(asset, _showing(asset, target)):
                set_base_color(asset, alike, encode_png(texture, opacity))
            left_out, sources = [f"{line}; left out" for line in asset.missing], asset.files
            if output.suffix.lower() == ".obj":
                files, more = obj_from_gltf(asset, parse_gltf(target.path, glb.pack(asset)), output.stem)
                left_out += more
            elif output.suffix.lower() == ".gltf":
                files = separate(asset, output.stem)
            else:
                files = {output.name: glb.pack(asset)}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Reading its textures needs little of a glTF file; to write all of it again, all of it must be valid.
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{target.path}: not a valid mesh file ({reason}); export the mesh again") from None
    images = (part.material.image for part in target.read)
    sources = [*sources, *(image.source for image in images if image is not None and isinstance(image.source, Path))]
    *names, last = files
    return {name: files[name] for name in names} | {output.name: files[last]}, left_out, sources


def _showing(asset: glb.EditableGltf, target: RetextureTarget) -> list[glb.Json]:
    """The primitives that get the texture: those whose base colour shows the one that is replaced; without one, the
    target's parts, or those that were unwrapped."""
    if target.unwrapped is not None:
        return [asset.tree["meshes"][m]["primitives"][p] for m, p in target.unwrapped[1]]
    if target.path.suffix.lower() not in GLTF:
        named = {mesh["name"]: mesh["primitives"][0] for mesh in asset.tree["meshes"]}
        return [named[part] for part in target.parts]
    replaced = target.replaced
    if replaced is None:
        places = [part.place for part in target.read if part.key in target.parts]
        return [asset.tree["meshes"][place[0]]["primitives"][place[1]] for place in places if place]
    primitives = [p for mesh in asset.tree["meshes"] for p in mesh["primitives"]]
    primitives = [p for p in primitives if p.get("mode", 4) in glb.TRIANGLE_MODES]
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
