"""PLY: one or several textures, UV coordinates at vertices or at corners."""

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


CORNERS = """ply
format ascii 1.0
{comments}
element vertex 4
property float x
property float y
property float z
element face 2
property list uchar int vertex_indices
property list uchar float texcoord
property int texnumber
end_header
0 0 0
1 0 0
1 1 0
0 1 0
4 0 1 2 3 8 0 0.5 0.5 0.5 0.5 1 0 1 {first}
3 0 1 2 6 0 0 1 0 1 1 {second}
"""


def test_each_of_several_textures_has_its_own_faces_quads_too(tmp_path: Path) -> None:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    Image.fromarray(255 - PAINT).save(tmp_path / "other.png")
    path = tmp_path / "square.ply"
    path.write_text(
        CORNERS.format(comments="comment TextureFile paint.png\ncomment TextureFile other.png", first=1, second=0)
    )
    read = read_atlases(path)
    assert read.rejected == ()
    shares = {one.name: coverage_mask(one.triangles, (64, 64)).mean() for one in read.atlases}
    assert shares == {"paint.png": pytest.approx(0.5, abs=0.01), "other.png": 0.25}


def test_a_texture_that_is_not_there_is_named_and_the_others_are_used(tmp_path: Path) -> None:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    path = tmp_path / "square.ply"
    path.write_text(
        CORNERS.format(comments="comment TextureFile paint.png\ncomment TextureFile gone.png", first=0, second=1)
    )
    read = read_atlases(path)
    assert [one.name for one in read.atlases] == ["paint.png"]
    assert [(one.name, one.reason) for one in read.rejected] == [
        ("texture 1", "names the image gone.png, which does not exist near the mesh, nor a file of that name beside it")
    ]
    path.write_text(CORNERS.format(comments="comment TextureFile paint.png", first=0, second=3))
    assert read_atlases(path).rejected[0].reason == "its faces choose texture 3, but the file names 1"


def test_a_vertex_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "square.ply"
    path.write_text(PLY.format(comment="comment x").replace("3 0 2 3", "3 0 2 9"))
    with pytest.raises(InputError, match="names vertex 9, but the file has 4"):
        read_atlases(path)


def test_text_that_the_header_does_not_announce(tmp_path: Path) -> None:
    """As real programs write it: a line of the header that means nothing, more numbers in a row, empty rows."""
    Image.fromarray(PAINT).save(tmp_path / "my  paint.png")
    path = tmp_path / "square.ply"
    text = PLY.format(comment="Created by a program, www.example.org\n\ncomment TextureFile my  paint.png")
    path.write_text(text.replace("0 0 0 0 0.5\n", "0 0 0 0 0.5 9 9\n\n").replace("3 0 1 2\n", "3 0 1 2 4 1 1 1 1\n"))
    (atlas,) = read_atlases(path).atlases
    assert atlas.name == "my  paint.png"
    path.write_text(PLY.format(comment="comment TextureFile my  paint.png"))
    np.testing.assert_array_equal(atlas.triangles, read_atlases(path).atlases[0].triangles)
    for broken in (text.replace("vertex 4", "vertex"), text.replace("3 0 2 3", "3 0 2"), text.replace("uchar", "")):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"square\.ply: not a valid PLY file"):
            read_atlases(path)
