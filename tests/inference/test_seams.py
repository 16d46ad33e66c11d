"""`texdiff generate` closes the seams of what it draws on a mesh, unless it is asked to keep them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from texdiff.cli import main
from texdiff.evaluation.metrics.seams import seam_error
from texdiff.inference.target import read_seams, read_target
from texdiff.uv.seams.edges import MeshEdges

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube whose six sides are six islands."""
    cube = trimesh.creation.box()
    faces = np.argsort(cube.face_normals @ [1, 2, 4], kind="stable").reshape(6, 2)  # two triangles a side
    vertices, uv = [], []
    for number, side in enumerate(faces):
        corners = cube.vertices[cube.faces[side]].reshape(6, 3)
        axes = np.flatnonzero(np.ptp(corners, axis=0) > 0.5)
        place = np.array([0.05 + 0.33 * (number % 3), 0.1 + 0.5 * (number // 3)])
        vertices.append(corners)
        uv.append(place + 0.25 * (corners[:, axes] + 0.5))
    folder = tmp_path_factory.mktemp("box")
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*v) for v in np.concatenate(vertices)]
    lines += ["vt {:.6f} {:.6f}".format(*t) for t in np.concatenate(uv)]
    lines += [f"f {i}/{i} {i + 1}/{i + 1} {i + 2}/{i + 2}" for i in range(1, 36, 3)]
    (folder / "box.obj").write_text("\n".join(lines) + "\n")
    return folder / "box.obj"


def test_seams_are_closed_and_can_be_kept(base: Path, loaded: Any, box: Path, tmp_path: Path, capsys: Any) -> None:
    assert len(read_seams(read_target(box)).length) == 12
    drawn = {}
    for seams in ("close", "keep"):
        output = tmp_path / f"{seams}.png"
        arguments = ["--model", str(base), "--mesh", str(box), "--prompt", "wood", "--num_inference_steps", "2"]
        assert not main(["generate", *arguments, "--output", str(output), "--seams", seams])
        assert ("12 cut edges" in capsys.readouterr().out) == (seams == "close")
        drawn[seams] = np.asarray(Image.open(output))
    edges = MeshEdges(box, read_target(box).parts)
    closed, kept = (float(seam_error(edges, drawn[seams]).seams.mean()) for seams in ("close", "keep"))
    assert closed < kept / 2
