"""COLLADA: what the scene binds decides, not what comes first in the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import lettered_checker, only_atlas

from texdiff.errors import InputError
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.meshes.atlases import Atlas, read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()
FIRST, SECOND = "0 0 1 0 1 1 0 1", "0 0.5 0.5 0.5 0.5 1 0 1"  # all of the texture; its upper left quarter


def source(name: str, values: str, names: str) -> str:
    count = len(values.split()) // len(names)
    parameters = "".join(f'<param name="{letter}" type="float"/>' for letter in names)
    return (
        f'<source id="{name}"><float_array id="{name}-a" count="{len(values.split())}">{values}</float_array>'
        f'<technique_common><accessor source="#{name}-a" count="{count}" stride="{len(names)}">{parameters}'
        "</accessor></technique_common></source>"
    )


def dae(
    folder: Path,
    *,
    file_name: str = "paint.png",
    sampler: str = "",
    uvs: tuple[str, ...] = (FIRST,),
    bound: str = "",
    primitive: str = '<triangles count="2" material="s">{inputs}<p>{indices}</p></triangles>',
    controller: bool = False,
    up: str = "Y_UP",
    nodes: str = "",
    positions: str = "0 0 0 1 0 0 1 1 0 0 1 0",
    order: tuple[int, ...] = (0, 1, 2, 0, 2, 3),
) -> Path:
    """A square with a texture; TEXCOORD inputs of sets 0, 1, ... follow the vertex."""
    inputs = '<input semantic="VERTEX" source="#v" offset="0"/>'
    inputs += "".join(f'<input semantic="TEXCOORD" source="#t{i}" offset="1" set="{i}"/>' for i in range(len(uvs)))
    indices = " ".join(f"{i} {i}" if uvs else str(i) for i in order)
    mesh = source("p", positions, "XYZ") + "".join(source(f"t{i}", uv, "ST") for i, uv in enumerate(uvs))
    mesh += '<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>'
    mesh += primitive.format(inputs=inputs, indices=indices)
    binding = f"<bind_material><technique_common><instance_material symbol='s' target='#M'>{bound}"
    binding += "</instance_material></technique_common></bind_material>"
    skin = (
        '<library_controllers><controller id="C"><skin source="#g">'
        "<bind_shape_matrix>2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1</bind_shape_matrix>"
        '<source id="j"><Name_array id="ja" count="1">b</Name_array><technique_common><accessor source="#ja" count="1">'
        '<param name="JOINT" type="name"/></accessor></technique_common></source>'
        '<source id="w"><float_array id="wa" count="1">1</float_array><technique_common>'
        '<accessor source="#wa" count="1">'
        '<param name="WEIGHT" type="float"/></accessor></technique_common></source>'
        '<source id="m"><float_array id="ma" count="16">1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</float_array><technique_common>'
        '<accessor source="#ma" count="1" stride="16"><param name="TRANSFORM" type="float4x4"/></accessor>'
        '</technique_common></source><joints><input semantic="JOINT" source="#j"/>'
        '<input semantic="INV_BIND_MATRIX" source="#m"/></joints><vertex_weights count="4">'
        '<input semantic="JOINT" source="#j" offset="0"/><input semantic="WEIGHT" source="#w" offset="1"/>'
        "<vcount>1 1 1 1</vcount><v>0 0 0 0 0 0 0 0</v></vertex_weights></skin></controller></library_controllers>"
    )
    kind, url = ("instance_controller", "#C") if controller else ("instance_geometry", "#g")
    text = f"""<?xml version="1.0"?><COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
    <asset><created>2024-01-01T00:00:00</created><modified>2024-01-01T00:00:00</modified><up_axis>{up}</up_axis></asset>
    <library_images><image id="I"><init_from>{file_name}</init_from></image></library_images>
    <library_effects><effect id="E"><profile_COMMON><newparam sid="S"><surface type="2D"><init_from>I</init_from>
    </surface></newparam><newparam sid="P"><sampler2D><source>S</source>{sampler}</sampler2D></newparam>
    <technique sid="common"><phong><diffuse><texture texture="P" texcoord="UV"/></diffuse></phong></technique>
    </profile_COMMON></effect></library_effects>
    <library_materials><material id="M" name="paint"><instance_effect url="#E"/></material></library_materials>
    <library_geometries><geometry id="g" name="square"><mesh>{mesh}</mesh></geometry></library_geometries>
    {skin if controller else ""}
    <library_visual_scenes><visual_scene id="V"><node id="n"><{kind} url="{url}">{binding}</{kind}></node>{nodes}
    </visual_scene></library_visual_scenes><scene><instance_visual_scene url="#V"/></scene></COLLADA>"""
    path = folder / "square.dae"
    path.write_text(text, "utf-8")
    return path


def covered(atlas: Atlas) -> np.ndarray:
    return coverage_mask(atlas.triangles, (64, 64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    return tmp_path


def test_a_plain_square(folder: Path) -> None:
    path = dae(folder)
    atlas = only_atlas(path)
    assert np.array_equal(atlas.texture, PAINT)
    assert covered(atlas).all()
    assert atlas.mesh_area.sum() == pytest.approx(1)
    assert (atlas.name, atlas.parts) == ("paint.png", ("square",))
    assert tuple(read_scene(path).geometry) == atlas.parts


@pytest.mark.parametrize(("number", "share"), [("0", 1.0), ("1", 0.25)])
def test_the_uv_set_that_the_scene_binds_is_used(folder: Path, number: str, share: float) -> None:
    bound = f'<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="{number}"/>'
    mask = covered(only_atlas(dae(folder, uvs=(FIRST, SECOND), bound=bound)))
    assert mask.mean() == share
    assert mask[:32, :32].all()


@pytest.mark.parametrize(("word", "share"), [("WRAP", 1.0), ("CLAMP", 0.25), ("MIRROR", 0.25)])
def test_the_samplers_wrap_modes(folder: Path, word: str, share: float) -> None:
    beyond = "-0.5 -0.5 0.5 -0.5 0.5 0.5 -0.5 0.5"
    atlas = only_atlas(dae(folder, uvs=(beyond,), sampler=f"<wrap_s>{word}</wrap_s><wrap_t>{word}</wrap_t>"))
    assert covered(atlas).mean() == share


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("my%20paint.png", "my paint.png"),
        ("file:///C:/work/my%20paint.png", "my paint.png"),
        ("tex\\paint.png", "tex/paint.png"),
        ("PAINT.PNG", "paint.png"),
        ("../textures/paint.png", "../textures/paint.png"),
        ("te\u0301gument.png", "t\u00e9gument.png"),
        ("t\u00e9gument.png", "te\u0301gument.png"),
        ("paint.png", "../textures/paint.png"),
    ],
)
def test_images_are_found_as_in_every_format(tmp_path: Path, written: str, stored: str) -> None:
    folder = tmp_path / "asset" / "source"
    (folder / stored).parent.mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    Image.fromarray(PAINT).save(folder / stored)
    assert np.array_equal(only_atlas(dae(folder, file_name=written)).texture, PAINT)


def test_an_image_that_is_nowhere_is_named(folder: Path) -> None:
    read = read_atlases(dae(folder, file_name="gone.png"))
    assert [(one.name, one.reason) for one in read.rejected] == [
        ("paint", "names the image gone.png, which does not exist near the mesh, nor a file of that name beside it")
    ]


def test_a_skinned_mesh_is_used_as_it_was_bound(folder: Path) -> None:
    atlas = only_atlas(dae(folder, controller=True))
    assert covered(atlas).all()
    assert atlas.mesh_area.sum() == pytest.approx(4)  # its bind shape is twice as large


def test_instances_are_one_part_and_z_up_becomes_y_up(folder: Path) -> None:
    binding = "<bind_material><technique_common><instance_material symbol='s' target='#M'/></technique_common>"
    again = f'<node id="m"><translate>0 0 3</translate><instance_geometry url="#g">{binding}</bind_material>'
    path = dae(folder, up="Z_UP", nodes=again + "</instance_geometry></node>")
    atlas = only_atlas(path)
    assert len(atlas.triangles) == 2
    assert atlas.mesh_area.sum() == pytest.approx(2)
    np.testing.assert_allclose(read_scene(path).bounds, [[0, 0, -1], [1, 3, 0]])


@pytest.mark.parametrize(
    "primitive",
    [
        '<polylist count="1" material="s">{inputs}<vcount>4</vcount><p>{indices}</p></polylist>',
        '<polygons count="1" material="s">{inputs}<p>{indices}</p></polygons>',
    ],
)
def test_concave_polygons_are_not_filled_over_their_notches(folder: Path, primitive: str) -> None:
    dart, uv = "0 0 0 1 0 0 0.25 0.25 0 0 1 0", "0 0 1 0 0.25 0.25 0 1"
    for turn in range(4):
        order = tuple((i + turn) % 4 for i in range(4))
        atlas = only_atlas(dae(folder, positions=dart, uvs=(uv,), order=order, primitive=primitive))
        assert covered(atlas).mean() == pytest.approx(0.25, abs=0.03)


def test_without_uv_coordinates_material_or_scene(folder: Path) -> None:
    (one,) = read_atlases(dae(folder, uvs=())).rejected
    assert one.reason == "uses paint.png, but it has no UV coordinates"
    path = dae(folder)
    path.write_text(path.read_text().replace("symbol='s'", "symbol='other'"))
    assert read_atlases(path).rejected[0].reason == "the scene binds no material to s"
    path.write_text(dae(folder).read_text().replace("<scene>", "<!--").replace("</scene>", "-->"))
    with pytest.raises(InputError, match="holds no faces"):
        read_atlases(path)


@pytest.mark.parametrize("text", ["<COLLADA/>", "nothing", "<COLLADA", "\0\1"])
def test_what_is_damaged_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "square.dae").write_text(text)
    with pytest.raises(InputError) as error:
        read_atlases(tmp_path / "square.dae")
    assert "\n" not in str(error.value)
    assert "square.dae" in str(error.value)
