"""An OBJ with another texture: its lines as they are, its materials as they are but for the one that is replaced."""

from collections.abc import Sequence
from pathlib import Path

from texdiff.files import unique_name
from texdiff.uv.meshes.find_file import find_file
from texdiff.uv.meshes.mtl import decode, split_options
from texdiff.uv.meshes.obj import find_libraries, read_lines
from texdiff.uv.meshes.part import Part

_IMAGES = ("map_", "bump", "disp", "decal", "refl", "norm")
"""How statements begin that name an image."""


def rewrite_obj(
    path: Path, parts: Sequence[Part], shown: Sequence[str], png: bytes, stem: str
) -> tuple[dict[str, bytes], list[str], list[Path]]:
    """An OBJ file with `png` as the texture of some parts.

    Args:
        path: the OBJ file.
        parts: what it was read as.
        shown: keys of the parts that get the texture.
        png: the texture.
        stem: of the new files' names.

    Returns:
        The files by name: the texture, the other images that its materials name, byte for byte, STEM.mtl, and last
        STEM.obj, whose lines are the file's own; a line for each image that is not there; and the files that the mesh
        was made of.
    """
    lines = read_lines(path)
    libraries, _ = find_libraries(path, lines)
    for part in parts:
        if "material_file" in part.material.properties:  # found beside, as the OBJ names another
            libraries.append(path.parent / str(part.material.properties["material_file"]))
    blocks = _blocks(libraries)
    folded = {name.casefold(): block for name, block in blocks.items()}
    texture = f"{stem}.png"
    files, sources = {texture: png}, [path, *libraries]
    named: dict[Path, str] = {}
    left_out, written = [], []
    for name in lines.names:
        own = name or _name_of_all(parts, blocks)
        block = blocks.get(own) or folded.get(own.casefold()) or []
        written.append(f"newmtl {own}")
        is_shown = bool({name or "unnamed", f"{name or 'unnamed'} *"} & set(shown))
        options = ""
        for key, value in block:
            if is_shown and key.lower() in ("map_kd", "map_ka", "kd"):  # map_Ka is the same once more
                if key.lower() == "map_kd":
                    options = "".join(f"{k} {' '.join(v)} " for k, v in split_options(value)[0].items())
                continue
            if key.lower().startswith(_IMAGES):
                found = find_file(split_options(value)[1], [path.parent])
                if found is None:
                    left_out.append(f"{own}: {key} {split_options(value)[1]} does not exist; left out")
                    continue
                if found not in named:
                    named[found] = unique_name(found.stem, files, "-" if found.suffix else "_", found.suffix)
                    files[named[found]] = found.read_bytes()
                    sources.append(found)
                kept = "".join(f"{k} {' '.join(v)} " for k, v in split_options(value)[0].items())
                value = kept + named[found]
            written.append(f"{key} {value}")
        if is_shown:
            written += ["Kd 1 1 1", f"map_Kd {options}{texture}"]
        written.append("")
    files[f"{stem}.mtl"] = ("\n".join(written) + "\n").encode()
    files[f"{stem}.obj"] = _with_library(decode(path.read_bytes()), stem, _name_of_all(parts, blocks)).encode()
    return files, left_out, sources


def _name_of_all(parts: Sequence[Part], blocks: dict[str, list[tuple[str, str]]]) -> str:
    """What faces without a usemtl are to use: the only material that there is, or a new one."""
    assumed = [p.material.name for p in parts if "material_assumed" in p.material.properties]
    return assumed[0] if assumed else unique_name("texture", blocks, "_")


def _blocks(libraries: Sequence[Path]) -> dict[str, list[tuple[str, str]]]:
    """The statements (key, value) of each material; of two files with one the first counts, as in `read_obj`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for library in libraries:
        own: dict[str, list[tuple[str, str]]] = {}
        current: list[tuple[str, str]] = []
        for line in decode(library.read_bytes()).split("\n"):
            words = line.split(None, 1)
            if not words or words[0].startswith("#"):
                continue
            key, value = words[0], words[1].strip() if len(words) > 1 else ""
            if key.lower() == "newmtl":
                current = own[value] = []  # defined again, the last one counts
            else:
                current.append((key, value))
        found = {**own, **found}
    return found


def _with_library(text: str, stem: str, without: str) -> str:
    """The lines of an OBJ, naming STEM.mtl; faces before any usemtl use the material `without`."""
    lines, chosen = [f"mtllib {stem}.mtl"], False
    for line in text.split("\n"):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word == "mtllib":
            continue
        if word == "usemtl":
            chosen = True
        if word == "f" and not chosen:
            lines.append(f"usemtl {without}")
            chosen = True
        lines.append(line)
    return "\n".join(lines)
