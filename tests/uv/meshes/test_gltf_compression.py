"""Compressed glTF: what is packed by Draco, meshopt or KTX is read where that is possible, and else said plainly."""

import sys
from pathlib import Path

import numpy as np
import pytest
from uv_files import SQUARE, SQUARE_FACES, Gltf, lettered_checker, only_atlas

from texdiff.errors import InputError
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()


def test_compression_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gltf = Gltf()
    good = gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT)))
    draco = gltf.primitive(SQUARE, 0)
    draco["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}
    for index in [*draco["attributes"].values(), draco["indices"]]:
        del gltf.tree["accessors"][index]["bufferView"]
    gltf.place(draco)
    path = gltf.write(tmp_path / "all.glb")
    monkeypatch.setitem(sys.modules, "DracoPy", None)  # not installed
    with pytest.raises(InputError, match=r"needs the package DracoPy; pip install 'texdiff\[compressed\]'"):
        read_atlases(path)
    gltf.place(good)
    read = read_atlases(gltf.write(tmp_path / "some.glb"))
    assert len(read.atlases) == 1
    assert "Draco-compressed" in read.rejected[0].reason
    assert list(read_scene(tmp_path / "some.glb").geometry) == list(read.atlases[0].parts)


@pytest.mark.parametrize("has_fallback", [True, False])
def test_meshopt_is_read_from_its_fallback(tmp_path: Path, has_fallback: bool) -> None:
    gltf = Gltf()
    gltf.place(gltf.primitive(SQUARE / 2, gltf.material(gltf.picture(PAINT))))
    gltf.tree["extensionsUsed"] = gltf.tree["extensionsRequired"] = ["EXT_meshopt_compression"]
    for view in gltf.tree["bufferViews"]:
        view["extensions"] = {"EXT_meshopt_compression": {"buffer": 1, "byteLength": 9, "mode": "ATTRIBUTES"}}
        view["buffer"] = 0 if has_fallback else 1
    gltf.tree["buffers"] = [{"byteLength": 9, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}]
    path = gltf.write(tmp_path / "meshopt.glb")
    if not has_fallback:
        with pytest.raises(InputError, match="EXT_meshopt_compression"):
            read_atlases(path)
        return
    np.testing.assert_array_equal(only_atlas(path).triangles[0], [[0, 1], [0.5, 1], [0.5, 0.5]])
    from texdiff.inference.retexture import retexture

    retexture(path, PAINT, tmp_path / "new.glb")
    assert b"meshopt" not in (tmp_path / "new.glb").read_bytes()
    np.testing.assert_array_equal(only_atlas(tmp_path / "new.glb").triangles, only_atlas(path).triangles)


def test_draco_is_decoded(tmp_path: Path) -> None:
    dracopy = pytest.importorskip("DracoPy")
    uv = np.array([[0, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]])
    points = np.concatenate([SQUARE, np.zeros((4, 1))], axis=1)
    encoded = dracopy.encode(points, SQUARE_FACES.astype(np.uint32), tex_coord=uv, preserve_order=True)
    numbers = {len(one["data"][0]): one["unique_id"] for one in dracopy.decode(encoded).attributes}
    gltf = Gltf()
    primitive = gltf.primitive(uv, gltf.material(gltf.picture(PAINT)))
    for index in [*primitive["attributes"].values(), primitive["indices"]]:
        del gltf.tree["accessors"][index]["bufferView"]
    attributes = {"POSITION": numbers[3], "TEXCOORD_0": numbers[2]}
    extension = {"bufferView": gltf.view(encoded), "attributes": attributes}
    primitive["extensions"] = {"KHR_draco_mesh_compression": extension}
    gltf.place(primitive)
    atlas = only_atlas(gltf.write(tmp_path / "draco.glb"))
    np.testing.assert_allclose(atlas.triangles, (uv * [1, -1] + [0, 1])[SQUARE_FACES], atol=1e-3)
    np.testing.assert_allclose(atlas.mesh_area, [0.5, 0.5], atol=1e-3)
    extension["attributes"]["TEXCOORD_0"] = 7
    with pytest.raises(InputError, match="Draco-compressed and cannot be decoded"):
        read_atlases(gltf.write(tmp_path / "broken.glb"))


def test_ktx2_is_said_plainly(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.place(gltf.primitive(SQUARE, gltf.material(gltf.picture(PAINT))))
    gltf.tree["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    (rejected,) = read_atlases(gltf.write(tmp_path / "ktx.glb")).rejected
    assert "KHR_texture_basisu, which is not supported" in rejected.reason
