from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from uv_files import lettered_checker, only_atlas, square_obj

from texdiff.errors import InputError
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()


def paint(path: Path, texture: np.ndarray = PAINT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(texture).save(path)


def mapped(path: Path) -> float:
    atlas = only_atlas(path)
    return float(coverage_mask(atlas.triangles, (64, 64)).mean())


def test_v_points_up(tmp_path: Path) -> None:
    path = square_obj(tmp_path)
    paint(tmp_path / "paint.png")
    path.write_text(path.read_text().replace("vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1", "vt 0 .5\nvt .5 .5\nvt .5 1\nvt 0 1"))
    atlas = only_atlas(path)
    assert (atlas.name, atlas.parts) == ("paint.png", ("paint",))
    assert atlas.properties == {"base_color_factor": [0.5, 0.5, 0.5]}
    assert np.array_equal(atlas.texture, PAINT)
    expected = np.zeros((64, 64), dtype=bool)
    expected[:32, :32] = True
    assert np.array_equal(coverage_mask(atlas.triangles, (64, 64)), expected)
    assert atlas.mesh_area.sum() == pytest.approx(1)
    assert list(read_scene(path).geometry) == ["paint"]


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("paint.png", "paint.png"),
        ("PAINT.PNG", "paint.png"),
        ("paint.png", "Paint.PNG"),
        ('"paint.png"', "paint.png"),
        ("my paint.png", "my paint.png"),
        ("maps\\paint.png", "maps/paint.png"),
        ("maps\\\\paint.png", "maps/paint.png"),
        ("MAPS/paint.png", "maps/Paint.png"),
        ("./maps/../paint.png", "paint.png"),
        ("C:\\Users\\me\\paint.png", "paint.png"),
        ("/Users/me/my paint.png", "my paint.png"),
        ("f:/images/textures/paint.png", "paint.png"),
        ("-s 1 1 1 paint.png", "paint.png"),
        ("-bm 0.5 -o 0 0 -clamp off my paint.png", "my paint.png"),
        ("-mm 0 1 paint.png", "paint.png"),
        ("-blendu on -imfchan l paint.png", "paint.png"),
    ],
)
def test_pictures_are_found_as_written_or_beside(tmp_path: Path, written: str, stored: str) -> None:
    folder = tmp_path / "asset"
    paint(folder / stored)
    (folder / "maps").mkdir(exist_ok=True)
    assert only_atlas(square_obj(folder, written)).name == Path(stored).name


def test_a_picture_that_is_nowhere_is_named(tmp_path: Path) -> None:
    read = read_atlases(square_obj(tmp_path, "C:\\my paints\\wood.jpg"))
    assert read.atlases == ()
    assert read.rejected[0].name == "paint"
    assert "C:\\my paints\\wood.jpg, which does not exist near the mesh" in read.rejected[0].reason


def test_options_scale_and_shift_the_uv_map(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    assert mapped(square_obj(tmp_path, "-s 0.5 0.25 -o 0.5 0 paint.png")) == pytest.approx(1 / 8)
    atlas = only_atlas(tmp_path / "square.obj")
    assert atlas.triangles.min(axis=(0, 1)).tolist() == [0.5, 0]
    assert (atlas.properties["uv_scale"], atlas.properties["uv_offset"]) == ([0.5, 0.25], [0.5, 0.0])
    path = square_obj(tmp_path, "-clamp on -o 0.5 0.5 paint.png")
    assert mapped(path) == pytest.approx(1 / 4)


def test_udim_names_are_set_aside(tmp_path: Path) -> None:
    read = read_atlases(square_obj(tmp_path, "paint.<UDIM>.png"))
    assert "UDIM" in read.rejected[0].reason


def test_material_files_several_with_spaces_in_another_case_and_missing(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path, mtl="Square One.MTL")
    assert mapped(path) == 1
    path.write_text(path.read_text().replace("mtllib Square One.MTL", "mtllib square one.mtl"))
    assert mapped(path) == 1
    (tmp_path / "other.mtl").write_text("newmtl unused\n")
    text = path.read_text()
    (tmp_path / "Square One.MTL").rename(tmp_path / "one.mtl")
    path.write_text(text.replace("mtllib square one.mtl", "mtllib other.mtl one.mtl"))
    assert mapped(path) == 1
    path.write_text(text.replace("mtllib square one.mtl", "mtllib other.mtl\nmtllib one.mtl"))
    assert mapped(path) == 1

    path.write_text(text.replace("mtllib square one.mtl", "mtllib gone.mtl"))
    read = read_atlases(path)
    assert read.atlases == ()
    assert read.rejected[0].reason == (
        "is not defined in any material file; mtllib names gone.mtl, which does not exist"
    )
    (tmp_path / "other.mtl").unlink()  # now one.mtl is the only one there, and defines what is missing
    assert only_atlas(path).properties["material_file"] == "one.mtl"


def test_material_without_picture_or_definition(tmp_path: Path) -> None:
    path = square_obj(tmp_path)
    (tmp_path / "square.mtl").write_text("newmtl paint\nKd 1 0 0\n")
    assert read_atlases(path).rejected[0].reason == "has no base-colour texture"
    path.write_text(path.read_text().replace("usemtl paint\n", ""))
    assert read_atlases(path).rejected[0].reason == "has no material"
    path.write_text(path.read_text().replace("vt 0 1\n", "vt 0 1\nusemtl other\n"))
    assert read_atlases(path).rejected[0].reason == "is not defined in any material file"


def test_faces_without_uv_do_not_cost_their_neighbours_theirs(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path, faces="f 1/1 2/2 3/3\nf 1 3 4\nf 1//1 2/2 3")
    read = read_atlases(path)
    assert coverage_mask(read.atlases[0].triangles, (64, 64)).mean() == pytest.approx(0.5, abs=0.01)
    assert len(read.atlases[0].triangles) == 1
    assert [item.reason for item in read.rejected] == [
        "uses paint.png, but 2 of its triangles have no UV coordinates in the file"
    ]
    assert list(read_scene(path).geometry) == ["paint", "paint (no UV)"]


def test_relative_indices_and_faces_before_their_vertices(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    assert mapped(square_obj(tmp_path, faces="f -4/-4 -3/-3 -2/-2 -1/-1")) == 1
    path = square_obj(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[9:], *lines[1:9]]))
    assert mapped(path) == 1


def test_texts_as_they_come(tmp_path: Path) -> None:
    """Windows line ends, tabs, comments, continued lines, Latin-1, a byte-order mark, capital letters in numbers."""
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path, faces="f\t1/1/  2/2/ \\\n 3/3/ 4/4/  # the only one")
    text = path.read_text().replace("v 1 0 0", "v 1E0 0 0 0.5 0.5 0.5").replace("vt 1 0", "vt 1.0e+00 0 0")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert mapped(path) == 1
    path.write_bytes(b"# caf\xe9\n" + text.encode())
    assert mapped(path) == 1
    path.write_bytes(text.encode("utf-16"))
    assert mapped(path) == 1
    path.write_bytes(text.replace("\n", "\r").encode())
    assert mapped(path) == 1


def test_concave_polygons_are_not_filled_over_their_notches(tmp_path: Path) -> None:
    """A comb of 3 teeth as one polygon: its UV map is the comb."""
    tooth = [(0.8, 1), (0.8, 0.2), (0.6, 0.2), (0.6, 1), (0.4, 1), (0.4, 0.2), (0.2, 0.2), (0.2, 1)]
    outline = [(0, 0), (1, 0), (1, 1), *tooth, (0, 1)]
    paint(tmp_path / "paint.png")
    for turn in (1, -1):
        for axes in ("{x} {y} 0", "0 {x} {y}", "{y} 0 {x}", "{x} {y} {x}"):
            points = outline[::turn]
            lines = ["mtllib square.mtl", "usemtl paint"]
            lines += ["v " + axes.format(x=x, y=y) for x, y in points] + [f"vt {x} {y}" for x, y in points]
            lines.append("f " + " ".join(f"{i}/{i}" for i in range(1, len(points) + 1)))
            path = square_obj(tmp_path)
            path.write_text("\n".join(lines))
            assert mapped(path) == pytest.approx(1 - 2 * 0.2 * 0.8, abs=0.02)
    dart = "v 0 0 0\nv 1 0 0\nv 0.2 0.2 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt .2 .2\nvt 0 1\n"
    for order in ("1234", "2341", "3412", "4123", "4321"):
        path.write_text("mtllib square.mtl\nusemtl paint\n" + dart + "f " + " ".join(f"{i}/{i}" for i in order))
        assert mapped(path) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("faces", "words"),
    [
        ("f 1/1 2/2 9/3", "names vertex 9, but the file has 4"),
        ("f 0/1 2/2 3/3", "names vertex 0, but the file has 4"),
        ("f -9/1 2/2 3/3", "a face names vertex"),
        ("f 1/x 2/2 3/3", "corner '1/x' cannot be read"),
        ("f 1/1 2/2", "no face has three corners"),
        ("", "holds no faces"),
        ("vt a b\nf 1/1 2/2 3/3", "a vt line cannot be read"),
    ],
)
def test_what_is_wrong_is_one_plain_line(tmp_path: Path, faces: str, words: str) -> None:
    path = square_obj(tmp_path, faces=faces)
    for read in (read_atlases, read_scene):
        with pytest.raises(InputError, match=words) as error:
            read(path)
        assert "\n" not in str(error.value)


def test_edges_with_two_corners_are_passed_over(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    assert mapped(square_obj(tmp_path, faces="f 1/1 2/2\nf 1/1 2/2 3/3 4/4\nl 1 2\np 1")) == 1


def test_no_file_no_mesh_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_atlases(tmp_path / "gone.obj")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(InputError, match=r"meshes in \.txt are not read"):
        read_atlases(tmp_path / "note.txt")
    (tmp_path / "empty.obj").touch()
    with pytest.raises(InputError, match="empty"):
        read_atlases(tmp_path / "empty.obj")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_garbage_is_survived(tmp_path: Path, data: st.DataObject) -> None:
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path)
    target = data.draw(st.sampled_from([path, tmp_path / "square.mtl"]))
    text = target.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 12)))
    garbage = data.draw(st.binary(max_size=6) | st.sampled_from([b"nan", b"1e999", b"-s ", b"/"]))
    target.write_bytes(text[:start] + garbage + text[end:])
    for read in (read_atlases, read_scene):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_the_only_material_is_taken_where_none_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path)
    path.write_text(path.read_text().replace("usemtl paint\n", ""))
    assert only_atlas(path).properties["material_assumed"] == "paint"
    (tmp_path / "square.mtl").write_text("newmtl paint\nmap_Kd paint.png\nnewmtl other\nmap_Kd paint.png\n")
    assert read_atlases(path).rejected[0].reason == "has no material"


def test_the_material_file_of_the_meshs_own_name_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    paint(tmp_path / "paint.png")
    path = square_obj(tmp_path)
    path.write_text(path.read_text().replace("mtllib square.mtl", "mtllib gone.mtl"))
    (tmp_path / "zz.mtl").write_text("newmtl paint\n")
    assert only_atlas(path).properties["material_file"] == "square.mtl"


def test_images_of_a_sketchfab_download_lie_one_level_up(tmp_path: Path) -> None:
    (tmp_path / "chair/textures").mkdir(parents=True)
    paint(tmp_path / "chair/textures/paint.png")
    assert only_atlas(square_obj(tmp_path / "chair/source")).name == "paint.png"


def test_a_wrong_uv_index_costs_its_face_only(tmp_path: Path) -> None:
    path = square_obj(tmp_path)
    paint(tmp_path / "paint.png")
    before = only_atlas(path)
    path.write_text(path.read_text() + "f 1/1 2/2 3/99\nf 1/1 2/-99 3/3\n")
    read = read_atlases(path)
    np.testing.assert_array_equal(read.atlases[0].triangles, before.triangles)
    assert [one.reason for one in read.rejected] == [
        "uses paint.png, but 2 of its triangles have no UV coordinates in the file"
    ]


def test_escaped_spaces(tmp_path: Path) -> None:
    path = square_obj(tmp_path)
    paint(tmp_path / "paint.png")
    (mtl,) = tmp_path.glob("*.mtl")
    (tmp_path / "paint.png").rename(tmp_path / "oak  two.png")
    text = mtl.read_text().replace("paint.png", "oak\\ \\ two.png")
    mtl.unlink()
    (tmp_path / "my old.mtl").write_text(text)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("mtllib")]
    path.write_text("\n".join(["mtllib none.mtl my\\ old.mtl", *lines]) + "\n")
    assert [atlas.name for atlas in read_atlases(path).atlases] == ["oak  two.png"]
