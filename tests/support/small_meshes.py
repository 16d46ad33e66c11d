"""Small textured meshes as files, as a user's folder has them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

# Two quads: the top left quarter of the picture, and the bottom right one's left half. V up.
ISLANDS = (((0.0, 0.5), (0.5, 1.0)), ((0.5, 0.0), (0.75, 0.5)))


def _draw(seed: int, side: int = 64) -> np.ndarray:
    """A picture, uint8 [side, side, 3], that no other seed gives; every quarter looks different."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def _islands_mask(side: int = 64) -> np.ndarray:
    """Where ISLANDS lie in a picture of that side, bool, row 0 on top."""
    mask = np.zeros((side, side), dtype=bool)
    mask[: side // 2, : side // 2] = True
    mask[side // 2 :, side // 2 : 3 * side // 4] = True
    return mask


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """`draw(seed, side=64)`: a picture that no other seed gives."""
    return _draw


@pytest.fixture(scope="session")
def islands_mask() -> Callable[..., np.ndarray]:
    """`islands_mask(side=64)`: the texels that the meshes of `write_mesh` use."""
    return _islands_mask


@pytest.fixture(scope="session")
def write_mesh() -> Callable[..., Path]:
    """`write_mesh(path, picture)`: a .glb, or an .obj with its .mtl and picture beside it, on ISLANDS."""

    def write(path: Path, picture: np.ndarray, islands: tuple = ISLANDS) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        uv = [
            corner
            for (left, low), (right, high) in islands
            for corner in ((left, low), (right, low), (right, high), (left, high))
        ]
        corners = [(x + 2 * quad, y, 0) for quad in range(len(islands)) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
        faces = [(4 * q + a, 4 * q + b, 4 * q + c) for q in range(len(islands)) for a, b, c in ((0, 1, 2), (0, 2, 3))]
        if path.suffix == ".obj":
            Image.fromarray(picture).save(path.with_suffix(".png"))
            path.with_suffix(".mtl").write_text(f"newmtl m\nmap_Kd {path.stem}.png\n")
            lines = [f"mtllib {path.stem}.mtl", "usemtl m"]
            lines += [f"v {x} {y} {z}" for x, y, z in corners] + [f"vt {u} {v}" for u, v in uv]
            lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in faces]
            path.write_text("\n".join(lines) + "\n")
            return path
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(picture))
        visual = trimesh.visual.TextureVisuals(uv=np.array(uv), material=material)
        trimesh.Trimesh(corners, faces, visual=visual, process=False).export(path)
        return path

    return write
