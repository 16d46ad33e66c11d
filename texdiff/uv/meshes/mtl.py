"""Read Wavefront MTL files and find the images they name."""

import re
from pathlib import Path

import numpy as np
from trimesh.visual.material import PBRMaterial

from texdiff.uv.image import open_image
from texdiff.uv.meshes.find_file import find_file, missing_image
from texdiff.uv.meshes.part import ImageRef, Material, Property

# Options of a texture statement and the most arguments each takes (Wavefront's "MTL material format", 1995).
OPTIONS = {
    "-s": 3, "-o": 3, "-t": 3, "-mm": 2, "-blendu": 1, "-blendv": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-texres": 1,
    "-bm": 1, "-imfchan": 1, "-type": 1, "-colorspace": 1,
}  # fmt: skip
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?")
MAX_MTL_BYTES = 64 << 20


def decode(data: bytes) -> str:
    """Text of an OBJ or MTL file with plain line ends: UTF-8, UTF-16 by its mark, else Latin-1, which takes any bytes.

    Lines that end in a backslash are joined with the next.
    """
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\\\n", " ")


def read_mtl(path: Path, folders: list[Path]) -> dict[str, Material]:
    """Materials of one MTL file by name; images are looked for in its folder and in ``folders``."""
    if path.stat().st_size > MAX_MTL_BYTES:
        return {}
    statements: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in decode(path.read_bytes()).split("\n"):
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        key, value = words[0].lower(), words[1].strip() if len(words) > 1 else ""
        if key == "newmtl":
            current = statements.setdefault(value, {})
            current.clear()  # defined again: the last one counts
        else:
            current[key] = value
    return {name: _material(name, values, [path.parent, *folders]) for name, values in statements.items()}


def _material(name: str, values: dict[str, str], folders: list[Path]) -> Material:
    colour = _numbers(values.get("kd", ""), 3)
    properties: dict[str, Property] = {}
    if colour is not None:
        properties["base_color_factor"] = colour
    opacity = _numbers(values.get("d", ""), 1)
    if opacity is not None and opacity[0] < 1:
        properties["opacity"] = opacity[0]
    if "map_d" in values:
        properties["opacity_map"] = split_options(values["map_d"])[1]
    image = None

    def to_pbr() -> PBRMaterial:
        texture = open_image(image.source) if image is not None else None
        # The image replaces Kd: exporters write any Kd beside map_Kd, also black.
        rgb = [1.0, 1.0, 1.0] if texture is not None or colour is None else colour
        rgba = np.rint(np.clip([*rgb, *(opacity or [1.0])], 0, 1) * 255).astype(np.uint8)
        return PBRMaterial(
            name=name,
            baseColorFactor=rgba,
            baseColorTexture=texture,
            metallicFactor=0.0,
            roughnessFactor=1.0,
            alphaMode="BLEND" if rgba[3] < 255 else None,
        )

    if not values.get("map_kd"):
        return Material(name=name, properties=properties, to_pbr=to_pbr)

    options, file_name = split_options(values["map_kd"])
    for option, fact in (("-s", "uv_scale"), ("-o", "uv_offset")):
        if option in options:
            properties[fact] = _triple(options[option], 1.0 if option == "-s" else 0.0)
    wrap = ("clamp", "clamp") if options.get("-clamp") == ["on"] else ("repeat", "repeat")
    if re.search(r"<UDIM>|<UVTILE>", file_name, re.IGNORECASE):
        problem = f"names UDIM tiles ({file_name}), which are not supported; bake them into one image"
        return Material(name=name, problem=problem, properties=properties, to_pbr=to_pbr)
    found = find_file(file_name, folders)
    if found is None:
        return Material(name=name, problem=missing_image(file_name), properties=properties, to_pbr=to_pbr)
    image = ImageRef(name=found.name, source=found)
    return Material(name=name, image=image, wrap=wrap, properties=properties, to_pbr=to_pbr)


def _numbers(text: str, count: int) -> list[float] | None:
    try:
        values = [float(word) for word in text.split()[:count]]
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _triple(words: list[str], default: float) -> list[float]:
    return [float(words[i]) if i < len(words) else default for i in range(2)]


def split_options(text: str) -> tuple[dict[str, list[str]], str]:
    """Options in front, then the file's name, which may hold spaces."""
    options: dict[str, list[str]] = {}
    rest = text
    while True:
        words = rest.split(None, 1)
        if len(words) < 2 or words[0].lower() not in OPTIONS:
            return options, rest.strip().strip("\"'")
        option, rest = words[0].lower(), words[1]
        taken: list[str] = []
        numeric = OPTIONS[option] > 1
        while len(taken) < OPTIONS[option]:
            words = rest.split(None, 1)
            if len(words) < 2 or (numeric and not NUMBER.fullmatch(words[0])):
                break
            taken.append(words[0])
            rest = words[1]
        options[option] = taken
