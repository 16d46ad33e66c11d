"""Make textured meshes to try texdiff on.

    python -m texdiff.demo.make FOLDER [--count N] [--seed S] [--size 256]

Half of them are GLB, half OBJ with MTL and PNG. FOLDER/captions.jsonl describes each. Their look, a rainbow from the
bottom to the top of the object, is one that the model `nano` has not been trained on. The same seed writes the same
bytes.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from texdiff.demo.looks import Look, describe, paint_look, rainbow_look
from texdiff.demo.shapes import SHAPES, Mesh, pack
from texdiff.errors import InputError
from texdiff.uv.gutter import fill

VOIDS = [(0, 0, 0), (128, 128, 128), (255, 0, 255), (255, 255, 255), None]
"""Colours of the texels that no face uses, as one meets them in real atlases; None is noise."""


def paint_atlas(mesh: Mesh, look: Look, size: int, rng: np.random.Generator) -> np.ndarray:
    """The atlas of `mesh`: the look on each island, two texels further out, over a void. uint8 [size, size, 3]."""
    image, positions = paint_look(look, mesh, size, rng)
    void = VOIDS[rng.integers(len(VOIDS))]
    noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    atlas = noise if void is None else np.full((size, size, 3), void, np.uint8)
    covered = np.asarray(positions.any(axis=2))
    reached = cv2.dilate(covered.astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.where(reached[..., None] > 0, fill(image, covered), atlas)


def write_meshes(
    folder: Path,
    count: int,
    seed: int,
    size: int,
    looks: Callable[[np.random.Generator, str], Look] = rainbow_look,
) -> list[Path]:
    """Write `count` textured meshes and captions.jsonl into `folder`, and return the meshes' files.

    `size` is the side of their atlases in texels; `looks` draws what is painted on one, given its shape's name.

    Raises InputError.
    """
    if count < 1:
        raise InputError(f"--count {count}: there is nothing to make; give at least 1")
    if not 64 <= size <= 4096:
        raise InputError(f"--size {size}: an atlas has 64 to 4096 texels a side")
    if seed < 0:
        raise InputError(f"--seed {seed}: give a whole number from 0 up")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder ({error.strerror}); give another") from error
    files, lines = [], []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        shape = list(SHAPES)[i % len(SHAPES)]
        mesh = pack(SHAPES[shape](rng), rng, gap=max(8 / size, 0.02))
        look = looks(rng, shape)
        atlas = paint_atlas(mesh, look, size, rng)
        name = f"{shape}_{i:03d}"
        write = _write_obj if i % 2 else write_glb
        files.append(write(folder, name, mesh, atlas))
        record = {"mesh": files[-1].relative_to(folder).as_posix(), "text": describe(look, shape)}
        lines.append(json.dumps(record | {"license": "CC0-1.0", "author": "texdiff"}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), "utf-8")
    return files


def write_glb(folder: Path, name: str, mesh: Mesh, atlas: np.ndarray) -> Path:
    """Write FOLDER/NAME.glb, `mesh` with `atlas` (uint8 RGB [H, W, 3]) as its base colour, and return its path."""
    import trimesh
    from PIL import Image

    material = trimesh.visual.material.PBRMaterial(
        name=name, baseColorTexture=Image.fromarray(atlas), metallicFactor=0.0, roughnessFactor=0.8
    )
    visual = trimesh.visual.TextureVisuals(uv=mesh.uv, material=material)
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False)
    path = folder / f"{name}.glb"
    path.write_bytes(trimesh.Scene(whole).export(file_type="glb"))
    return path


def _write_obj(folder: Path, name: str, mesh: Mesh, atlas: np.ndarray) -> Path:
    home = folder / name
    home.mkdir(exist_ok=True)
    ok, png = cv2.imencode(".png", np.ascontiguousarray(atlas[..., ::-1]))
    assert ok
    (home / f"{name}.png").write_bytes(png.tobytes())
    (home / f"{name}.mtl").write_text(f"newmtl {name}\nKd 1 1 1\nmap_Kd {name}.png\n", "utf-8")
    lines = [f"mtllib {name}.mtl", f"o {name}", f"usemtl {name}"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uv]
    lines += ["f " + " ".join(f"{i}/{i}" for i in face) for face in mesh.faces + 1]
    path = home / f"{name}.obj"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m texdiff.demo.make", description="Make textured meshes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=28, help="how many meshes (default 28)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default 0)")
    parser.add_argument("--size", type=int, default=256, help="side of the atlases in texels (default 256)")
    given = parser.parse_args()
    try:
        files = write_meshes(given.folder, given.count, given.seed, given.size)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"{len(files)} textured meshes in {given.folder}")


if __name__ == "__main__":
    main()
