"""A glTF 2.0 file as a tree of JSON and the bytes of its buffer views: read, change one texture, write as GLB.

A mesh library would rebuild the file from what it understands; here all but the replaced image stays as it is, byte for
byte: other maps, samplers, tangents, skins, animations, extensions. Section numbers are those of the
glTF 2.0 specification, https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

import copy
import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

from texdiff.errors import InputError, readable
from texdiff.inference.glb.textures import Json, drop_images, slots_of
from texdiff.uv.meshes.gltf.document import BINARY_CHUNK, JSON_CHUNK, MESHOPT, Document, open_gltf
from texdiff.uv.meshes.part import PartError

TRIANGLE_MODES = (4, 5, 6)  # triangles, strip, fan: section 5.24.4
WEBP = "EXT_texture_webp"


@dataclass
class EditableGltf:
    """One asset. `views[i]` holds the bytes of `tree["bufferViews"][i]`; offsets are worked out when it is packed."""

    tree: Json
    views: list[bytes]
    missing: list[str] = field(default_factory=list)  # a line for each image that could not be read, so is not in tree
    files: list[Path] = field(default_factory=list)  # that it was read from

    def copy(self) -> "EditableGltf":
        """Another that can be changed by itself."""
        return replace(self, tree=copy.deepcopy(self.tree), views=list(self.views))


def read(path: Path) -> EditableGltf:
    """Read a .glb, or a .gltf with the files that it names.

    Raises:
        InputError: not glTF 2.0, cut short, a file with buffers is missing, or they are compressed.
    """
    document = open_gltf(path)
    try:
        return _gather(document)
    except PartError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.filename}: cannot be read ({error.strerror})") from None


def _gather(document: Document) -> EditableGltf:
    """All that the document names, in one place: views of several buffers, images in files of their own."""
    tree = document.tree
    gltf = EditableGltf(tree, [document.view(i) for i in range(len(document.objects("bufferViews")))])
    for view in tree.get("bufferViews", []):  # read from the fallback, so no longer compressed
        extensions = {name: value for name, value in view.pop("extensions", {}).items() if name not in MESHOPT}
        view.update({"extensions": extensions} if extensions else {})
    for key in ("extensionsUsed", "extensionsRequired"):
        if not set(tree.get(key, [])).isdisjoint(MESHOPT):
            tree[key] = [name for name in tree[key] if name not in MESHOPT]
            if not tree[key]:
                del tree[key]
    gone = set()
    for number, image in enumerate(document.objects("images")):
        if "uri" in image:
            try:
                found = document.uri(image["uri"])
                gltf.files += [found] if isinstance(found, Path) else []
                content = found.read_bytes() if isinstance(found, Path) else found
            except (PartError, OSError) as error:
                reason = error if isinstance(error, PartError) else f"cannot be read ({error.strerror})"
                gltf.missing.append(f"{', '.join(slots_of(tree, number)) or 'an image'} {reason}")
                gone.add(number)
                continue
            del image["uri"]
            image["mimeType"] = "image/jpeg" if content[:2] == b"\xff\xd8" else image.get("mimeType", "image/png")
            image["bufferView"] = add_view(gltf, content)
    if gone:
        drop_images(tree, gone)
    buffers = [document.uri(uri) for uri in document.read if uri]
    gltf.files += [document.path, *(found for found in buffers if isinstance(found, Path))]
    return gltf


def add_view(gltf: EditableGltf, content: bytes) -> int:
    """Append a buffer view with this content and return its index."""
    gltf.views.append(content)
    views = gltf.tree.setdefault("bufferViews", [])
    views.append({"buffer": 0, "byteLength": len(content)})
    return len(views) - 1


def base_color_image(gltf: EditableGltf, material: Json) -> bytes | None:
    """The encoded image of a material's base colour, where it has one in a format that is read here."""
    info = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
    if info is None:
        gloss = material.get("extensions", {}).get("KHR_materials_pbrSpecularGlossiness", {})
        info = gloss.get("diffuseTexture")
    if info is None:
        return None
    texture = gltf.tree["textures"][info["index"]]
    source = texture.get("extensions", {}).get(WEBP, texture).get("source")
    return None if source is None else gltf.views[gltf.tree["images"][source]["bufferView"]]


def pack(gltf: EditableGltf) -> bytes:
    """The asset as one GLB (section 4.4). Views start at multiples of 4, which all component types are content with."""
    binary = bytearray()
    views = gltf.tree.get("bufferViews", [])
    for view, content in zip(views, gltf.views, strict=True):
        view.update(buffer=0, byteOffset=len(binary), byteLength=len(content))
        binary += content + b"\0" * (-len(content) % 4)
    gltf.tree.pop("buffers", None)
    if binary:
        gltf.tree["buffers"] = [{"byteLength": len(binary)}]
    text = readable(json.dumps(gltf.tree, separators=(",", ":"), ensure_ascii=False)).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    if binary:
        chunks += struct.pack("<II", len(binary), BINARY_CHUNK) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks
