import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import SQUARE, Gltf, lettered_checker, only_atlas, square_glb

from texdiff.errors import InputError
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.meshes.atlases import Atlas, read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()


def reason(path: Path) -> str:
    read = read_atlases(path)
    assert read.atlases == ()
    (item,) = read.rejected
    return item.reason


def box(atlas: Atlas) -> list[float]:
    """u from, u to, v from, v to."""
    low, high = atlas.triangles.min(axis=(0, 1)), atlas.triangles.max(axis=(0, 1))
    return [float(value) for value in (low[0], high[0], low[1], high[1])]


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_v_points_down_in_the_file_and_up_in_the_atlas(tmp_path: Path, suffix: str) -> None:
    """The file's upper left quarter is the picture's upper left quarter."""
    atlas = only_atlas(square_glb(tmp_path / f"square{suffix}", PAINT, SQUARE / 2))
    assert atlas.name == "paint"
    assert np.array_equal(atlas.texture, PAINT)
    expected = np.zeros((64, 64), dtype=bool)
    expected[:32, :32] = True
    assert np.array_equal(coverage_mask(atlas.triangles, (64, 64)), expected)
    assert atlas.mesh_area == pytest.approx([0.5, 0.5])


def test_picture_and_buffer_in_files_beside_with_escaped_names(tmp_path: Path) -> None:
    gltf = Gltf()
    image = gltf.add("images", {"uri": "my%20paint.png"})
    gltf.place(gltf.primitive(SQUARE, gltf.material(image)))
    gltf.tree["buffers"] = [{"byteLength": len(gltf.binary), "uri": "my%20data.bin"}]
    (tmp_path / "my data.bin").write_bytes(gltf.binary)
    (tmp_path / "square.gltf").write_text(json.dumps(gltf.tree))
    assert "my paint.png" not in [path.name for path in tmp_path.iterdir()]
    assert "my%20paint.png, which does not exist" in reason(tmp_path / "square.gltf")
    Image.fromarray(PAINT).save(tmp_path / "my paint.png")
    assert only_atlas(tmp_path / "square.gltf").name == "my paint.png"
    (tmp_path / "my data.bin").unlink()
    with pytest.raises(InputError, match=r"my%20data\.bin, which does not exist"):
        read_atlases(tmp_path / "square.gltf")


def test_the_uv_set_that_the_texture_names_is_used(tmp_path: Path) -> None:
    gltf = Gltf()
    primitive = gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT), texCoord=1))
    primitive["attributes"]["TEXCOORD_1"] = gltf.accessor(SQUARE / 4, "f4", "VEC2")
    gltf.place(primitive)
    atlas = only_atlas(gltf.write(tmp_path / "two.glb"))
    assert box(atlas) == [0, 0.25, 0.75, 1]
    assert atlas.properties == {"uv_set": 1}
    scene = read_scene(tmp_path / "two.glb")
    assert np.allclose(scene.geometry[atlas.parts[0]].visual.uv[:, 0].max(), 0.25)

    del primitive["attributes"]["TEXCOORD_1"]
    assert "has no TEXCOORD_1, which its texture names" in reason(gltf.write(tmp_path / "one.glb"))


def test_texture_transform_is_applied_as_its_worked_example_says(tmp_path: Path) -> None:
    """offset [0, 1], a quarter turn, scale 0.5: "only the lower left quadrant, rotated clockwise 90 degrees"."""
    transform = {"offset": [0, 1], "rotation": np.pi / 2, "scale": [0.5, 0.5]}
    path = square_glb(tmp_path / "turned.glb", PAINT, extensions={"KHR_texture_transform": transform})
    assert box(only_atlas(path)) == pytest.approx([0, 0.5, 0, 0.5])
    path = square_glb(
        tmp_path / "flipped.glb",
        PAINT,
        SQUARE / 4,
        extensions={"KHR_texture_transform": {"offset": [0, 1], "scale": [1, -1]}},
    )
    assert box(only_atlas(path)) == pytest.approx([0, 0.25, 0, 0.25])  # "effectively defining a bottom-left origin"
    transform = {"offset": [0.5, 0], "scale": [0.5, 0.25], "texCoord": 0}
    path = square_glb(tmp_path / "scaled.glb", PAINT, texCoord=3, extensions={"KHR_texture_transform": transform})
    assert box(only_atlas(path)) == pytest.approx([0.5, 1, 0.75, 1])


@pytest.mark.parametrize(("dtype", "scale"), [("u2", 65535), ("u1", 255)])
def test_normalised_integers_are_fractions(tmp_path: Path, dtype: str, scale: int) -> None:
    gltf = Gltf()
    primitive = gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT)))
    primitive["attributes"]["TEXCOORD_0"] = gltf.accessor(SQUARE * scale, dtype, "VEC2", normalized=True)
    gltf.place(primitive)
    assert box(only_atlas(gltf.write(tmp_path / "square.glb"))) == [0, 1, 0, 1]


def test_sparse_and_interleaved_accessors(tmp_path: Path) -> None:
    gltf = Gltf()
    primitive = gltf.primitive(np.zeros((4, 2)), gltf.material(gltf.picture(PAINT)))
    accessor = gltf.tree["accessors"][primitive["attributes"]["TEXCOORD_0"]]
    del accessor["bufferView"]
    accessor["sparse"] = {
        "count": 3,
        "indices": {"bufferView": gltf.view(np.array([1, 2, 3], dtype="<u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": gltf.view((SQUARE[1:] / 2).astype("<f4").tobytes())},
    }
    gltf.place(primitive)
    assert box(only_atlas(gltf.write(tmp_path / "sparse.glb"))) == [0, 0.5, 0.5, 1]

    gltf = Gltf()
    primitive = gltf.primitive(None, gltf.material(gltf.picture(PAINT)))
    rows = np.concatenate([SQUARE, np.zeros((4, 1)), SQUARE / 4], axis=1).astype("<f4")
    view = gltf.view(rows.tobytes(), byteStride=20)
    for name, kind, offset in (("POSITION", "VEC3", 0), ("TEXCOORD_0", "VEC2", 12)):
        item = {"bufferView": view, "byteOffset": offset, "componentType": 5126, "count": 4, "type": kind}
        primitive["attributes"][name] = gltf.add("accessors", item)
    gltf.place(primitive)
    atlas = only_atlas(gltf.write(tmp_path / "interleaved.glb"))
    assert box(atlas) == [0, 0.25, 0.75, 1]
    assert atlas.mesh_area == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("mode", "order"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3]), (4, [0, 1, 2, 0, 2, 3])])
@pytest.mark.parametrize("indexed", [True, False])
def test_strips_and_fans(tmp_path: Path, mode: int, order: list[int], indexed: bool) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.picture(PAINT))
    if indexed:
        primitive = gltf.primitive(SQUARE, material, faces=order)
    else:
        vertices = np.concatenate([SQUARE, np.zeros((4, 1))], axis=1)[order]
        primitive = gltf.primitive(SQUARE[order], material, vertices, faces=None)
    gltf.place({**primitive, "mode": mode})
    atlas = only_atlas(gltf.write(tmp_path / "square.glb"))
    assert coverage_mask(atlas.triangles, (16, 16)).all()
    sides = np.diff(atlas.triangles, axis=1)
    turn = sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0]
    assert (turn < 0).all()  # all wound the same way (v was turned over)


def test_node_transforms_scale_the_surface_and_every_place_counts(tmp_path: Path) -> None:
    gltf = Gltf()
    index = gltf.place(
        gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT))), scale=[2, 3, 1], rotation=[0, 0, 0, 1]
    )
    gltf.tree["nodes"][index]["children"] = [1]
    gltf.add("nodes", {"mesh": 0, "translation": [5, 0, 0], "scale": [0.5, 1, 1]})
    matrix = np.diag([4.0, 1, 1, 1])
    matrix[:3, 3] = 7
    gltf.tree["scenes"][0]["nodes"].append(gltf.add("nodes", {"mesh": 0, "matrix": matrix.T.ravel().tolist()}))
    path = gltf.write(tmp_path / "square.glb")
    atlas = only_atlas(path)
    assert atlas.triangles.shape == (2, 3, 2)
    assert atlas.mesh_area.sum() == pytest.approx(6 + 3 + 4)
    assert read_scene(path).to_mesh().area == pytest.approx(13)


def test_shared_texture_is_one_atlas_with_the_union_of_its_parts(tmp_path: Path) -> None:
    gltf = Gltf()
    image = gltf.picture(PAINT)
    twin = gltf.picture(PAINT, "the same texels again")
    gltf.place(gltf.primitive(SQUARE / 4, gltf.material(image)), gltf.primitive(SQUARE / 4 + 0.5, gltf.material(twin)))
    gltf.place(gltf.primitive(SQUARE / 4 + [0, 0.5], gltf.material(image)))
    gltf.place(gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT[::-1].copy(), "other"))))
    read = read_atlases(gltf.write(tmp_path / "many.glb"))
    assert [atlas.name for atlas in read.atlases] == ["paint", "other"]
    assert read.atlases[0].parts == ("shape 0", "shape 1", "shape")
    assert coverage_mask(read.atlases[0].triangles, (64, 64)).mean() == pytest.approx(3 / 16)
    assert set(read.atlases[0].parts) | set(read.atlases[1].parts) == set(read_scene(tmp_path / "many.glb").geometry)


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [(10497, [[0, 8], [56, 64]]), (33071, [[0, 8]]), (33648, [[0, 8]]), (None, [[0, 8], [56, 64]])],
)
def test_outside_0_to_1_the_sampler_decides(tmp_path: Path, wrap: int | None, expected: list[list[int]]) -> None:
    """A strip from u -0.125 to 0.125 repeats on the far side, or is cut off, or folded back."""
    gltf = Gltf()
    sampler = None if wrap is None else {"wrapS": wrap, "wrapT": 10497}
    gltf.place(gltf.primitive(SQUARE * [0.25, 1] - [0.125, 0], gltf.material(gltf.picture(PAINT), sampler)))
    atlas = only_atlas(gltf.write(tmp_path / "strip.glb"))
    columns = np.zeros(64, dtype=bool)
    for start, end in expected:
        columns[start:end] = True
    assert np.array_equal(coverage_mask(atlas.triangles, (64, 64)), np.tile(columns, (64, 1)))
    assert atlas.mesh_area.sum() == pytest.approx(0.5 if wrap == 33071 else 1)


def test_materials_without_texture_and_vertex_colours_are_set_aside(tmp_path: Path) -> None:
    gltf = Gltf()
    coloured = gltf.primitive(SQUARE, None)
    coloured["attributes"]["COLOR_0"] = gltf.accessor(np.ones((4, 3)), "f4", "VEC3")
    gltf.place(
        coloured, gltf.primitive(SQUARE, gltf.material(None)), gltf.primitive(None, gltf.material(gltf.picture(PAINT)))
    )
    read = read_atlases(gltf.write(tmp_path / "bare.glb"))
    assert read.atlases == ()
    assert [(item.name, item.reason) for item in read.rejected] == [
        ("unnamed", "has no material"),
        ("bare", "has no base-colour texture"),
        ("painted", "uses paint, but it has no UV coordinates"),
    ]


def test_colour_factor_and_alpha_mode_are_recorded_not_applied(tmp_path: Path) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.picture(np.dstack([PAINT, np.zeros((64, 64), dtype=np.uint8)])))
    gltf.tree["materials"][material]["alphaMode"] = "BLEND"
    gltf.tree["materials"][material]["pbrMetallicRoughness"]["baseColorFactor"] = [0.5, 0.25, 1, 1]
    gltf.place(gltf.primitive(SQUARE, material))
    atlas = only_atlas(gltf.write(tmp_path / "glass.glb"))
    assert np.array_equal(atlas.texture, PAINT)  # also where alpha is 0
    assert atlas.properties == {"alpha_mode": "BLEND", "base_color_factor": [0.5, 0.25, 1, 1]}


def test_specular_glossiness_materials_have_a_texture_too(tmp_path: Path) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.picture(PAINT))
    info = gltf.tree["materials"][material].pop("pbrMetallicRoughness")["baseColorTexture"]
    gltf.tree["materials"][material]["extensions"] = {"KHR_materials_pbrSpecularGlossiness": {"diffuseTexture": info}}
    gltf.place(gltf.primitive(SQUARE, material))
    assert only_atlas(gltf.write(tmp_path / "old.glb")).name == "paint"


def test_meshes_outside_the_scene_are_not_drawn_but_a_file_without_scene_is(tmp_path: Path) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.picture(PAINT))
    gltf.place(gltf.primitive(SQUARE / 2, material))
    gltf.add("meshes", {"primitives": [gltf.primitive(SQUARE, material)]})
    assert len(only_atlas(gltf.write(tmp_path / "one.glb")).triangles) == 2
    del gltf.tree["nodes"], gltf.tree["scenes"], gltf.tree["scene"]
    assert len(only_atlas(gltf.write(tmp_path / "none.glb")).triangles) == 4


def test_a_ring_of_nodes_ends(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.place(gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT))), children=[0, 1, 0])
    gltf.add("nodes", {"children": [0, 1], "mesh": 0})
    assert only_atlas(gltf.write(tmp_path / "ring.glb")).mesh_area.sum() == pytest.approx(2)


@pytest.mark.parametrize("spaces", [0, 1, 2, 3])
@pytest.mark.parametrize("counted", [False, True])
def test_a_json_chunk_that_is_not_padded(tmp_path: Path, spaces: int, counted: bool) -> None:
    """Whether or not the header counts the bytes that are missing."""
    gltf = Gltf()
    gltf.place(gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT))))
    text = json.dumps({**gltf.tree, "buffers": [{"byteLength": len(gltf.binary)}]}).encode()
    text += b" " * (-len(text) % 4 + spaces)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    chunks += struct.pack("<II", len(gltf.binary), 0x004E4942) + gltf.binary
    missing = -len(text) % 4 if counted else 0
    path = tmp_path / "square.glb"
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) + missing) + chunks)
    assert np.array_equal(only_atlas(path).texture, PAINT)


def test_materials_of_other_variants_and_scenes_are_named(tmp_path: Path) -> None:
    gltf = Gltf()
    materials = [gltf.material(gltf.picture(PAINT // (i + 1), name=f"paint {i}")) for i in range(4)]
    for number in materials:
        gltf.tree["materials"][number]["name"] = f"material {number}"
    primitive = gltf.primitive(SQUARE, materials[0])
    mappings = [{"material": materials[0], "variants": [0]}, {"material": materials[1], "variants": [1]}]
    primitive["extensions"] = {"KHR_materials_variants": {"mappings": mappings}}
    gltf.place(primitive)
    elsewhere = gltf.place(gltf.primitive(SQUARE, materials[2]))
    gltf.tree["scenes"][0]["nodes"].remove(elsewhere)
    gltf.tree["scenes"].append({"nodes": [elsewhere]})
    read = read_atlases(gltf.write(tmp_path / "square.glb"))
    assert [one.name for one in read.atlases] == ["paint 0"]
    assert [(one.name, one.reason) for one in read.rejected] == [
        ("material 1", "is used by another material variant only; make it the default to use it"),
        ("material 2", "is used outside of the default scene only; make it the default to use it"),
    ]


@pytest.mark.parametrize(
    ("written", "stored"),
    [("PAINT.png", "paint.png"), ("te\u0301.png", "t\u00e9.png"), ("C:\\\\x\\paint.png", "paint.png")],
)
def test_images_beside_are_found_as_in_every_format(tmp_path: Path, written: str, stored: str) -> None:
    Image.fromarray(PAINT).save(tmp_path / stored)
    gltf = Gltf()
    gltf.place(gltf.primitive(SQUARE, gltf.material(gltf.add("images", {"uri": written}))))
    assert np.array_equal(only_atlas(gltf.write(tmp_path / "square.gltf")).texture, PAINT)
