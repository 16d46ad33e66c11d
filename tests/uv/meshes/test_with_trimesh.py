"""The formats that trimesh reads for us."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import lettered_checker

from texdiff.errors import InputError
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()
PLY = """ply
format ascii 1.0
{comment}
element vertex 4
property float x
property float y
property float z
property float s
property float t
element face 2
property list uchar int vertex_indices
end_header
0 0 0 0 0.5
1 0 0 0.5 0.5
1 1 0 0.5 1
0 1 0 0 1
3 0 1 2
3 0 2 3
"""


def test_ply_with_a_texture(tmp_path: Path) -> None:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    path = tmp_path / "square.ply"
    path.write_text(PLY.format(comment="comment TextureFile paint.png"))
    read = read_atlases(path)
    assert read.rejected == ()
    (atlas,) = read.atlases
    assert np.array_equal(atlas.texture, PAINT)
    expected = np.zeros((64, 64), dtype=bool)
    expected[:32, :32] = True
    assert np.array_equal(coverage_mask(atlas.triangles, (64, 64)), expected)
    assert atlas.mesh_area.sum() == pytest.approx(1)
    assert tuple(read_scene(path).geometry) == atlas.parts


def test_ply_without_texture_and_damaged(tmp_path: Path) -> None:
    path = tmp_path / "square.ply"
    path.write_text(PLY.format(comment="comment nothing"))
    read = read_atlases(path)
    assert read.atlases == ()
    assert "no base-colour texture" in read.rejected[0].reason
    for text in ("ply", "ply\nformat ascii 1.0\nelement vertex 9\nend_header\n", "\0\1\2"):
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read_atlases(path)
        assert "\n" not in str(error.value)


def test_dae_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "square.dae").write_text("<COLLADA/>")
    with pytest.raises(InputError, match="install pycollada or convert it to GLB"):
        read_atlases(tmp_path / "square.dae")
