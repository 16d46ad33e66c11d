"""A glTF asset as OBJ, MTL and images: what these formats have a place for."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.files import unique_name
from texdiff.inference import glb
from texdiff.inference.glb.separate import image_names
from texdiff.uv.meshes.gltf.document import Document, dig
from texdiff.uv.meshes.gltf.materials import lookup_of
from texdiff.uv.meshes.gltf.parts import parts_of
from texdiff.uv.meshes.part import Part

Files = dict[str, bytes]


def obj_from_gltf(gltf: glb.EditableGltf, document: Document, stem: str) -> tuple[Files, list[str]]:
    """The files by name, the last of them STEM.obj; and a line for each map that they have no place for.

    Args:
        gltf: the asset.
        document: the same, open.
        stem: of the files' names.

    All parts stand where the scene has them, each instance by itself. Materials are those of MTL's extension for
    physically based rendering (Pm, Pr, norm, map_Ke): metalness and roughness come in images of their own, with as many
    bits as before.
    """
    names = image_names(gltf, stem)
    files: Files = {}
    written: dict[int | None, str] = {}
    statements, left_out = [], []
    lines = [f"mtllib {stem}.mtl"]
    counts = np.zeros(3, int)  # of v, vt, vn so far
    for part in parts_of(document):
        if not len(part.faces):
            continue
        number = part.material.number
        if number not in written:
            written[number] = unique_name(_word(part.material.name), written.values(), "_")
            material = {} if number is None else gltf.tree["materials"][number]
            block, left = _material(gltf, material, part, names, files)
            statements += [f"newmtl {written[number]}", *block, ""]
            left_out += [f"{part.material.name}: {line}" for line in left]
        for transform in part.transforms:
            lines += [f"o {_word(part.key)}", f"usemtl {written[number]}"]
            lines += _geometry(part, transform, counts)
    files[f"{stem}.mtl"] = ("\n".join(statements) + "\n").encode()
    files[f"{stem}.obj"] = ("\n".join(lines) + "\n").encode()
    return files, left_out


def _geometry(part: Part, transform: NDArray[np.float64], counts: NDArray[np.int_]) -> list[str]:
    """The lines of an instance; `counts` are those of all before it, and then with it."""
    linear = transform[:3, :3]
    vertices = part.vertices @ linear.T + transform[:3, 3]
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist()]
    if part.uv is not None:
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in part.uv.tolist()]
    mirrored = np.linalg.det(linear) < 0
    if part.normals is not None:
        a, b, c = linear.T
        normals = part.normals @ np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1).T
        normals *= -1 if mirrored else 1
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
        lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in normals.tolist()]
    v, t, n = counts + 1
    faces = part.faces[:, ::-1] if mirrored else part.faces
    if part.uv is None:
        corner = "{0}//{2}" if part.normals is not None else "{0}"
    else:
        corner = "{0}/{1}/{2}" if part.normals is not None else "{0}/{1}"
    for face in faces.tolist():
        lines.append("f " + " ".join(corner.format(i + v, i + t, i + n) for i in face))
    counts += len(vertices) * np.array([1, part.uv is not None, part.normals is not None])
    return lines


def _material(
    gltf: glb.EditableGltf, material: dict[str, Any], part: Part, names: dict[int, str], files: Files
) -> tuple[list[str], list[str]]:
    """The statements of a material, its images added to `files`; and what is left out."""
    pbr = material.get("pbrMetallicRoughness", {})
    factor = pbr.get("baseColorFactor", [1.0] * 4)
    lines = ["Kd {:.6g} {:.6g} {:.6g}".format(*factor[:3]), "Ks 0 0 0"]
    see_through = material.get("alphaMode", "OPAQUE") != "OPAQUE"
    if see_through:
        lines.append(f"d {factor[3]:.6g}")
    lines += [f"Pm {pbr.get('metallicFactor', 1.0):.6g}", f"Pr {pbr.get('roughnessFactor', 1.0):.6g}"]
    emissive = material.get("emissiveFactor", [0.0] * 3)
    if any(emissive):
        lines.append("Ke {:.6g} {:.6g} {:.6g}".format(*emissive))
    base = dig(pbr, "baseColorTexture", kind=dict)
    infos = {
        "map_Kd": base,
        "map_Pr": pbr.get("metallicRoughnessTexture"),
        "norm": material.get("normalTexture"),
        "map_Ke": material.get("emissiveTexture"),
    }
    left_out = ["its occlusion map is left out, which OBJ has no place for"] if "occlusionTexture" in material else []
    clamp = "-clamp on " if part.material.wrap == ("clamp", "clamp") else ""
    for statement, info in infos.items():
        if info is None or part.uv is None:
            continue
        source = _source(gltf, info)
        if source is None:
            left_out.append(f"its {statement} is left out: its image has a format that is not read")
            continue
        if info is not base and lookup_of(info) != lookup_of(base):
            left_out.append(f"its {statement} is left out: it has other UV coordinates, and OBJ has one UV map")
            continue
        content, name = gltf.views[gltf.tree["images"][source]["bufferView"]], names[source]
        if statement == "map_Pr":
            for key, channel in (("map_Pr", 1), ("map_Pm", 2)):  # roughness is green, metalness blue
                own = f"{name.rpartition('.')[0].removesuffix('-metallicRoughness')}-{key.removeprefix('map_')}.png"
                if (grey := _channel(content, channel)) is not None:
                    files[own] = grey
                    lines.append(f"{key} {clamp}{own}")
            continue
        files[name] = content
        lines.append(f"{statement} {clamp}{name}")
        if statement == "map_Kd" and see_through and (grey := _channel(content, 3)) is not None:
            own = f"{name.rpartition('.')[0]}-opacity.png"
            files[own] = grey
            lines.append(f"map_d {clamp}{own}")
    return lines, left_out


def _source(gltf: glb.EditableGltf, info: dict[str, Any]) -> int | None:
    texture = gltf.tree["textures"][info["index"]]
    return dig(texture, "extensions", glb.WEBP, "source", default=texture.get("source"))


def _channel(content: bytes, channel: int) -> bytes | None:
    """A channel (red, green, blue, alpha) of an image as a grey PNG of as many bits; None where it has none."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or (channel == 3 and (image.ndim != 3 or image.shape[2] != 4)):
        return None
    grey = image if image.ndim == 2 else image[..., (2, 1, 0, 3)[channel]]
    done, data = cv2.imencode(".png", np.ascontiguousarray(grey))
    return data.tobytes() if done else None


def _word(name: str) -> str:
    """A name without spaces, which not every program reads."""
    return "_".join(name.split()) or "unnamed"
