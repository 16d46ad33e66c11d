"""Files made by code and files of the world, read as a user's folder would be."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import SQUARE, Gltf, lettered_checker, square_glb, square_obj

from texdiff.data.prepare import prepare_dataset
from texdiff.inference.retexture import retexture
from texdiff.uv.audit import rejection_reason
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.measures import measure
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.scene import read_scene

PAINT = lettered_checker()


@pytest.fixture(params=["glb", "obj"])
def lettered(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A square that wears the middle of a lettered checker: UVs from (.25, .25) to (.75, 1)."""
    folder = tmp_path / "meshes"
    folder.mkdir()
    if request.param == "glb":
        return square_glb(folder / "square.glb", PAINT, SQUARE * [0.5, 0.75] + [0.25, 0])
    Image.fromarray(PAINT).save(folder / "paint.png")
    path = square_obj(folder)
    text = path.read_text()
    for old, new in (("0 0", ".25 .25"), ("1 0", ".75 .25"), ("1 1", ".75 1"), ("0 1", ".25 1")):
        text = text.replace(f"vt {old}\n", f"vt {new}\n")
    path.write_text(text)
    return path


EXPECTED = np.zeros((64, 64), dtype=bool)
EXPECTED[:48, 16:48] = True


def test_lettered_checker_comes_back_from_a_scene(lettered: Path, tmp_path: Path) -> None:
    """Mesh -> texture and mask -> scene -> GLB -> texture and mask."""
    before = read_atlases(lettered).atlases[0]
    (tmp_path / "again.glb").write_bytes(read_scene(lettered).export(file_type="glb"))
    after = read_atlases(tmp_path / "again.glb").atlases[0]
    assert np.array_equal(coverage_mask(before.triangles, (64, 64)), EXPECTED)
    assert np.array_equal(coverage_mask(after.triangles, (64, 64)), EXPECTED)
    assert np.array_equal(after.texture[EXPECTED], PAINT[EXPECTED])
    assert after.mesh_area.sum() == pytest.approx(before.mesh_area.sum())


def test_lettered_checker_comes_back_from_a_dataset(lettered: Path, tmp_path: Path) -> None:
    """Mesh -> dataset -> GLB: equal in every covered texel, also when the mesh wore something else in between."""
    prepare_dataset([str(lettered)], tmp_path / "dataset", workers=1)
    row = json.loads((tmp_path / "dataset/train/metadata.jsonl").read_text("utf-8"))
    texture, mask = (
        np.asarray(Image.open(tmp_path / "dataset/train" / row[k])) for k in ("file_name", "mask_file_name")
    )
    assert np.array_equal(mask > 0, EXPECTED)
    retexture(lettered, np.rot90(PAINT).copy(), tmp_path / "turned.glb")
    assert not np.array_equal(read_atlases(tmp_path / "turned.glb").atlases[0].texture[EXPECTED], PAINT[EXPECTED])
    retexture(tmp_path / "turned.glb", texture, tmp_path / "again.glb")
    after = read_atlases(tmp_path / "again.glb").atlases[0]
    assert np.array_equal(coverage_mask(after.triangles, (64, 64)), EXPECTED)
    assert np.array_equal(after.texture[EXPECTED], PAINT[EXPECTED])


@pytest.mark.slow
def test_scene_of_20000_parts(tmp_path: Path) -> None:
    """All wear one picture and lie on one place."""
    gltf = Gltf()
    primitive = gltf.primitive(SQUARE / 4, gltf.material(gltf.picture(PAINT)))
    for _ in range(20_000):
        gltf.place(primitive)
    start = time.process_time()
    (atlas,) = read_atlases(gltf.write(tmp_path / "many.glb")).atlases
    assert time.process_time() - start < 20  # seconds; 3 on one core of an AMD EPYC
    assert len(atlas.parts) == len(set(atlas.parts)) == 20_000
    assert atlas.triangles.shape == (40_000, 3, 2)
    assert coverage_mask(atlas.triangles, (64, 64)).sum() == 16 * 16


@pytest.mark.slow
def test_obj_of_20000_materials(tmp_path: Path) -> None:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    path = square_obj(tmp_path)
    text = path.read_text().split("usemtl")[0]
    path.write_text(text + "".join(f"usemtl m{number}\nf 1/1 2/2 3/3\n" for number in range(20_000)))
    (tmp_path / "square.mtl").write_text("".join(f"newmtl m{number}\nmap_Kd paint.png\n" for number in range(20_000)))
    start = time.process_time()
    (atlas,) = read_atlases(path).atlases
    assert time.process_time() - start < 20  # seconds; 4 on one core of an AMD EPYC
    assert len(atlas.parts) == len(atlas.triangles) == 20_000


@pytest.mark.slow
def test_real_meshes(real_meshes: Path) -> None:
    """Every one is read; what is set aside is known, and why."""
    read = {path.stem: read_atlases(path) for path in sorted(real_meshes.rglob("*.obj"))}
    assert len(read) == 113
    assert sum(len(item.atlases) for item in read.values()) == 181
    reasons = Counter()
    for item in read.values():
        for atlas in item.atlases:
            mask = coverage_mask(atlas.triangles, atlas.texture.shape[:2])
            reason = rejection_reason(measure(atlas.texture, mask, atlas.triangles, atlas.mesh_area))
            reasons[None if reason is None else reason.split("; ")[-1].split(" (")[0].split(" as large")[0]] += 1
    assert reasons == {
        None: 168,
        "a side below 64 holds too little to learn from": 7,
        "beyond 4:1 a square image squeezes it too much": 4,
        "is plain where the UV map covers it": 1,
        "has UV coordinates": 1,
    }
    # one face without UV coordinates must not cost the others theirs
    assert len(read["rangeHood"].atlases[0].triangles) == 2636
    # each broken path is named
    for mesh, words in (
        ("oriental-rug", "Living room rug.jpg"),
        ("technicalTable1", "f:/images/textures/wood/tree.jpg"),
        ("textMarker", "front1.png"),
        ("luckyBamboo", "Granite.jpg"),
        ("intercom_with_screen", "intercom_with_screen_prueba_texture.png"),
        ("wood_bank", "have no UV coordinates"),
    ):
        assert any(words in item.reason for item in read[mesh].rejected), mesh
