"""Put another base colour texture on some primitives of a glTF asset, and touch nothing else."""

import copy
from collections.abc import Iterator

from texdiff.inference.glb import EditableGltf, Json, add_view
from texdiff.inference.glb.textures import sources, texture_infos

# What glTF assumes without a material, or for factors left out, is bare metal (metallicFactor 1), which is black
# where there is nothing to reflect. Painted surfaces want this.
MATTE: Json = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}

_SPECULAR_GLOSSINESS = "KHR_materials_pbrSpecularGlossiness"


def set_base_color(gltf: EditableGltf, primitives: list[Json], png: bytes) -> None:
    """Give the `primitives` (dicts of `gltf.tree`, all with TEXCOORD_0) the PNG as base colour.

    The base colour factor becomes white, so that the texture is seen as it is; its alpha stays. The replaced image
    leaves the file unless another material or another map uses it. Samplers, UV sets and texture transforms stay.
    """
    slots = list(_base_color_slots(_own_materials(gltf.tree, primitives)))
    tree = gltf.tree
    textures = tree.setdefault("textures", [])
    images = tree.setdefault("images", [])
    old = {info["index"] for _, info in slots if "index" in info}
    ours = {id(info) for _, info in slots}
    shared = {
        holder[key]["index"] for holder, key in texture_infos(tree.get("materials", [])) if id(holder[key]) not in ours
    }
    # The new image takes the place of one that nothing else uses; so no index in the file changes.
    replaced = {i for t in old - shared for i in sources(textures[t])}
    replaced -= {i for t, texture in enumerate(textures) if t not in old - shared for i in sources(texture)}
    kept_views = {images[i]["bufferView"] for i in range(len(images)) if i not in replaced}
    free = sorted({images[i]["bufferView"] for i in replaced} - kept_views)
    for view in free:
        gltf.views[view] = b"\0\0\0\0"  # the shortest that a view of its own may be
    if free:
        gltf.views[free[0]] = png
    new: Json = {"mimeType": "image/png", "bufferView": free[0] if free else add_view(gltf, png)}
    image = min(replaced, default=len(images))
    if not replaced:
        images.append(new)
    for i in replaced:
        images[i] = dict(new)
    for _, info in slots:
        before = textures[info["index"]] if "index" in info else {}
        sampler = {"sampler": before["sampler"]} if "sampler" in before else {}
        if info.get("index") in old - shared:
            textures[info["index"]] = {**sampler, "source": image}
        else:
            textures.append({**sampler, "source": image})
            info["index"] = len(textures) - 1
    _forget_image_formats(tree)


def _own_materials(tree: Json, primitives: list[Json]) -> list[Json]:
    """The materials of these primitives, made where there is none, split off where other primitives use them too."""
    materials = tree.setdefault("materials", [])
    chosen = {id(primitive) for primitive in primitives}
    others = [p for mesh in tree["meshes"] for p in mesh["primitives"] if id(p) not in chosen]
    taken = {p.get("material") for p in others}
    moved: dict[int | None, int] = {}
    for primitive in primitives:
        index = primitive.get("material")
        if index is None or index in taken:
            if index not in moved:
                materials.append(copy.deepcopy(MATTE if index is None else materials[index]))
                moved[index] = len(materials) - 1
            primitive["material"] = moved[index]
    return [materials[i] for i in sorted({primitive["material"] for primitive in primitives})]


def _base_color_slots(materials: list[Json]) -> Iterator[tuple[Json, Json]]:
    """(settings, texture info) for each place where a material names its base colour; made where there is none."""
    for material in materials:
        settings = material.setdefault("pbrMetallicRoughness", {})
        settings["baseColorFactor"] = [1.0, 1.0, 1.0, settings.get("baseColorFactor", [1.0] * 4)[3]]
        yield settings, settings.setdefault("baseColorTexture", {})
        gloss = material.get("extensions", {}).get(_SPECULAR_GLOSSINESS)
        if gloss is not None:
            gloss["diffuseFactor"] = [1.0, 1.0, 1.0, gloss.get("diffuseFactor", [1.0] * 4)[3]]
            yield gloss, gloss.setdefault("diffuseTexture", {})


def _forget_image_formats(tree: Json) -> None:
    """Take WebP and KTX2 from the lists of extensions when no texture uses them any more."""
    used = {name for texture in tree["textures"] for name in texture.get("extensions", {})}
    for key in ("extensionsUsed", "extensionsRequired"):
        if key in tree:
            replaced = {"EXT_texture_webp", "KHR_texture_basisu"} - used
            tree[key] = [name for name in tree[key] if name not in replaced]
            if not tree[key]:
                del tree[key]
