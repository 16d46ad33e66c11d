"""A glTF asset as a .gltf file and the files that it names: its buffer, and each image by itself, as it is."""

import json
from typing import Any
from urllib.parse import quote

from texdiff.errors import readable
from texdiff.files import unique_name
from texdiff.inference.glb import EditableGltf
from texdiff.inference.glb.textures import slots_of

_SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".webp", b"\xabKTX": ".ktx2"}


def image_names(gltf: EditableGltf, stem: str) -> dict[int, str]:
    """A file name for each image, after the map that shows it: STEM-baseColor.png, STEM-normal.jpg, ..."""
    names: dict[int, str] = {}
    for number, image in enumerate(gltf.tree.get("images", [])):
        slot = next(iter(slots_of(gltf.tree, number)), "image").removesuffix("Texture")
        content = gltf.views[image["bufferView"]]
        suffix = next((suffix for mark, suffix in _SIGNATURES.items() if content.startswith(mark)), ".bin")
        names[number] = unique_name(f"{stem}-{slot}", names.values(), suffix=suffix)
    return names


def separate(gltf: EditableGltf, stem: str) -> dict[str, bytes]:
    """The files by name; the last is STEM.gltf, which names the others."""
    names = image_names(gltf, stem)
    tree = gltf.copy().tree
    files: dict[str, bytes] = {}
    of_images = set()
    for number, image in enumerate(tree.get("images", [])):
        of_images.add(image["bufferView"])
        files[names[number]] = gltf.views[image.pop("bufferView")]
        image["uri"] = quote(names[number])
    kept = [number for number in range(len(gltf.views)) if number not in of_images]
    _renumber(tree, {old: new for new, old in enumerate(kept)})
    views = tree.pop("bufferViews", [])
    tree.pop("buffers", None)
    binary = bytearray()
    for number in kept:
        content = gltf.views[number]
        views[number].update(buffer=0, byteOffset=len(binary), byteLength=len(content))
        binary += content + b"\0" * (-len(content) % 4)
    if kept:
        tree["bufferViews"] = [views[number] for number in kept]
        tree["buffers"] = [{"byteLength": len(binary), "uri": quote(f"{stem}.bin")}]
        files[f"{stem}.bin"] = bytes(binary)
    files[f"{stem}.gltf"] = readable(json.dumps(tree, indent=1, ensure_ascii=False)).encode()
    return files


def _renumber(node: Any, numbers: dict[int, int]) -> None:
    """Give every mention of a buffer view, at any depth, its new number."""
    for value in node if isinstance(node, list) else node.values() if isinstance(node, dict) else ():
        _renumber(value, numbers)
    if isinstance(node, dict) and node.get("bufferView") in numbers:
        node["bufferView"] = numbers[node["bufferView"]]
