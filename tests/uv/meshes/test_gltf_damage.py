"""Damaged and lying glTF files: one plain line, whatever is wrong."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uv_files import SQUARE, SQUARE_FACES, Gltf, lettered_checker, square_glb

from texdiff.errors import InputError
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 2**31}, "claims 2147483648 elements"),
        ({"count": 5}, "claims 5 elements"),
        ({"count": -1}, "unknown or unfit type"),
        ({"count": "4"}, "unknown or unfit type"),
        ({"count": 2**31, "bufferView": None}, "claims 2147483648 elements without data"),
        ({"componentType": 9}, "unknown or unfit type"),
        ({"type": "VEC4"}, "unknown or unfit type"),
        ({"byteOffset": 10**12}, "claims 4 elements"),
        ({"byteOffset": -4}, "claims 4 elements"),
        ({"bufferView": 99}, "buffer view 99, which does not exist"),
        ({"bufferView": "x"}, "buffer view x, which does not exist"),
    ],
)
def test_accessors_are_not_believed(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    gltf = Gltf()
    primitive = gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT)))
    gltf.place(primitive)
    accessor = gltf.tree["accessors"][primitive["attributes"]["POSITION"]]
    accessor |= change
    if change.get("bufferView", 0) is None:
        del accessor["bufferView"]
    with pytest.raises(InputError, match=words):
        read_atlases(gltf.write(tmp_path / "wrong.glb"))


def test_one_wrong_part_does_not_cost_the_others(tmp_path: Path) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.picture(PAINT))
    gltf.place(gltf.primitive(SQUARE, material), gltf.primitive(SQUARE, material, faces=SQUARE_FACES + 7))
    read = read_atlases(gltf.write(tmp_path / "half.glb"))
    assert len(read.atlases[0].triangles) == 2
    assert read.rejected[0].reason == "uses paint, but its part shape 1 names vertex 10 of 4"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"glTF", "truncated"),
        (b"\x89PNG\r\n", "neither GLB nor glTF JSON"),
        (b"[]", "not an object"),
        (b"{}", "version is missing"),
        (b'{"asset": {"version": "1.0"}}', "version is 1.0"),
        (b'{"asset": {"version": "2.0"}}', "holds no triangles"),
        (b'{"asset": {"version": "2.0"}, "meshes": 3}', "'meshes' is not an array"),
        (b'{"asset": {"version": "2.0"}, "nodes": [1]}', "'nodes' is not an array"),
        (b"[" * 100_000, "neither GLB nor glTF JSON"),
        (struct.pack("<4sII", b"glTF", 1, 20) + bytes(8), "GLB version is 1"),
        (struct.pack("<4sIIII", b"glTF", 2, 20, 99, 0x4E4F534A), "claims 99 bytes"),
        (struct.pack("<4sIIII", b"glTF", 2, 20, 0, 7), "without a JSON chunk"),
    ],
)
def test_what_is_no_gltf_is_one_plain_line(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "wrong.glb"
    path.write_bytes(data)
    for read in (read_atlases, read_scene):
        with pytest.raises(InputError, match=words) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(str(path))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 3000))
def test_a_glb_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    data = square_glb(tmp_path / "whole.glb", PAINT).read_bytes()
    (tmp_path / "cut.glb").write_bytes(data[: min(length, len(data) - 1)])
    with pytest.raises(InputError):
        read_atlases(tmp_path / "cut.glb")


def _spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += _spots(value[key], (*path, key))
    return found


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(),
    st.sampled_from(
        [None, True, -1, 0, 3, 2**31, 10**400, 0.5, "", "x", [], {}, [1], ["x"], {"x": 1}, [[]], [None], 1e308]
    ),
)
def test_any_value_of_the_wrong_type_is_survived(tmp_path: Path, data: st.DataObject, wrong: Any) -> None:
    gltf = Gltf()
    transform = {"KHR_texture_transform": {"offset": [0, 0], "rotation": 1, "scale": [1, 1], "texCoord": 0}}
    material = gltf.material(gltf.picture(PAINT), {"wrapS": 33071, "wrapT": 33648}, extensions=transform)
    primitive = gltf.primitive(SQUARE, material)
    gltf.place(primitive, rotation=[0, 0, 0, 1], scale=[1, 1, 1], translation=[0, 0, 0], children=[])
    spot = data.draw(st.sampled_from(_spots(gltf.tree)))
    item = gltf.tree
    for step in spot[:-1]:
        item = item[step]
    item[spot[-1]] = wrong
    path = gltf.write(tmp_path / "wrong.glb")
    for read in (read_atlases, read_scene):
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
