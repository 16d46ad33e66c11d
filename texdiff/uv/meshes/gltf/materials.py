"""Materials of a glTF file: base-colour image, how its UV coordinates are looked up, and the material for export."""

from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.uv.image import open_image
from texdiff.uv.meshes.gltf.document import Document, dig, numbers
from texdiff.uv.meshes.part import ImageRef, Material, PartError, Property

WRAPS = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
SPECULAR = "KHR_materials_pbrSpecularGlossiness"


@dataclass(frozen=True, kw_only=True)
class UVLookup:
    """Which UV set a texture reads, and its KHR_texture_transform, in glTF's own axes (v down)."""

    set: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)

    def apply(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scaled, then rotated, then shifted: [V, 2].

        The direction of the rotation is that of the extension's text and worked example (offset [0, 1], a quarter
        turn, scale 0.5 shows the lower left quadrant), which its GLSL listing contradicts.
        """
        u, v = (uv * self.scale).T
        cos, sin = np.cos(self.rotation), np.sin(self.rotation)
        return np.stack([cos * u + sin * v, -sin * u + cos * v], axis=1) + self.offset


def read_materials(document: Document) -> tuple[list[Material], list[UVLookup]]:
    """All materials in the file's order, and one more at the end for primitives without a material."""
    images: dict[int, ImageRef | str] = {}
    materials, lookups = [], []
    for index, tree in enumerate(document.objects("materials")):
        name = dig(tree, "name", kind=str, default="") or f"material {index}"
        info = dig(tree, "pbrMetallicRoughness", "baseColorTexture", kind=dict)
        if info is None:
            info = dig(tree, "extensions", SPECULAR, "diffuseTexture", kind=dict)
        lookups.append(lookup_of(info))
        materials.append(replace(_material(document, tree, name, info, lookups[-1], images), number=index))
    materials.append(Material(name="unnamed", problem="has no material", to_pbr=lambda: PBRMaterial()))
    lookups.append(UVLookup())
    return materials, lookups


def lookup_of(info: dict[str, Any] | None) -> UVLookup:
    """That of a textureInfo."""
    transform = dig(info, "extensions", "KHR_texture_transform", kind=dict, default={})
    offset, scale = numbers(transform.get("offset"), 2), numbers(transform.get("scale"), 2)
    rotation = numbers([transform.get("rotation")], 1)
    return UVLookup(
        set=dig(transform, "texCoord", kind=int, default=dig(info, "texCoord", kind=int, default=0)),
        offset=(0.0, 0.0) if offset is None else (float(offset[0]), float(offset[1])),
        rotation=0.0 if rotation is None else float(rotation[0]),
        scale=(1.0, 1.0) if scale is None else (float(scale[0]), float(scale[1])),
    )


def _material(
    document: Document,
    tree: dict[str, Any],
    name: str,
    info: dict[str, Any] | None,
    lookup: UVLookup,
    images: dict[int, ImageRef | str],
) -> Material:
    properties: dict[str, Property] = {}
    factor = numbers(dig(tree, "pbrMetallicRoughness", "baseColorFactor"), 4)
    if factor is not None and (factor != 1).any():
        properties["base_color_factor"] = factor.tolist()
    mode = dig(tree, "alphaMode", kind=str, default="OPAQUE")
    if mode != "OPAQUE":
        properties["alpha_mode"] = mode
    if lookup.set:
        properties["uv_set"] = lookup.set
    if lookup != UVLookup(set=lookup.set):
        properties["texture_transform"] = [*lookup.offset, lookup.rotation, *lookup.scale]

    def to_pbr() -> PBRMaterial:
        return _to_pbr(document, tree, name, info, images)

    if info is None:
        return Material(name=name, properties=properties, to_pbr=to_pbr)
    texture = dig(document.tree, "textures", dig(info, "index", kind=int), kind=dict, default={})
    sampler = dig(document.tree, "samplers", dig(texture, "sampler", kind=int), kind=dict, default={})
    along_u, along_v = (WRAPS.get(dig(sampler, key, kind=int, default=10497), "repeat") for key in ("wrapS", "wrapT"))
    wrap = (along_u, along_v)
    if wrap != ("repeat", "repeat"):
        properties["wrap"] = " ".join(wrap)
    image = _image_of(document, info, images, dig(tree, "name", kind=str, default=""))
    if isinstance(image, str):
        return Material(name=name, problem=image, properties=properties, to_pbr=to_pbr)
    return Material(name=name, image=image, wrap=wrap, properties=properties, to_pbr=to_pbr)


def _image_of(document: Document, info: Any, images: dict[int, ImageRef | str], material: str = "") -> ImageRef | str:
    """The image of a textureInfo, called as its material where it has no name; or why there is none."""
    texture = dig(document.tree, "textures", dig(info, "index", kind=int), kind=dict)
    if texture is None:
        return "names a texture that does not exist"
    extensions = dig(texture, "extensions", kind=dict, default={})
    source = dig(extensions, "EXT_texture_webp", "source", kind=int, default=dig(texture, "source", kind=int))
    if source is None:
        kind = ", ".join(sorted(map(str, extensions))) or "no image source"
        return f"has a base-colour texture with {kind}, which is not supported"
    if source not in images:
        images[source] = _image(document, source, material)
    return images[source]


def _image(document: Document, index: int, material: str) -> ImageRef | str:
    image = dig(document.tree, "images", index, kind=dict)
    if image is None:
        return f"names the image {index}, which does not exist"
    name = dig(image, "name", kind=str, default="") or material or f"image {index}"
    try:
        if "bufferView" in image:
            return ImageRef(name=name, source=document.view(image["bufferView"]))
        uri = image.get("uri")
        if not isinstance(uri, str):
            return f"names the image {name}, which holds no data"
        source = document.uri(uri)
    except PartError as error:
        return f"has the image {name}, which {error}"
    return ImageRef(name=name if uri.startswith("data:") else PurePosixPath(unquote(uri)).name, source=source)


def _to_pbr(
    document: Document, tree: dict[str, Any], name: str, info: Any, images: dict[int, ImageRef | str]
) -> PBRMaterial:
    def opened(texture_info: Any) -> Image.Image | None:
        ref = None if texture_info is None else _image_of(document, texture_info, images)
        return open_image(ref.source) if isinstance(ref, ImageRef) else None

    pbr = dig(tree, "pbrMetallicRoughness", kind=dict, default={})
    factor, emissive = numbers(pbr.get("baseColorFactor"), 4), numbers(tree.get("emissiveFactor"), 3)
    return PBRMaterial(
        name=name,
        baseColorFactor=None if factor is None else np.rint(np.clip(factor, 0, 1) * 255).astype(np.uint8),
        baseColorTexture=opened(info),
        metallicFactor=dig(pbr, "metallicFactor", kind=(int, float)),
        roughnessFactor=dig(pbr, "roughnessFactor", kind=(int, float)),
        metallicRoughnessTexture=opened(pbr.get("metallicRoughnessTexture")),
        normalTexture=opened(tree.get("normalTexture")),
        occlusionTexture=opened(tree.get("occlusionTexture")),
        emissiveTexture=opened(tree.get("emissiveTexture")),
        emissiveFactor=emissive,
        alphaMode=dig(tree, "alphaMode", kind=str),
        alphaCutoff=dig(tree, "alphaCutoff", kind=(int, float)),
        doubleSided=dig(tree, "doubleSided", kind=bool),
    )
