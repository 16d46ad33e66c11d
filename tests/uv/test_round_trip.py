"""Files made by code and files of the world, read as a user's folder would be."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import SQUARE, Gltf, lettered_checker, square_glb, square_obj

from texdiff.uv.audit import measure, verdict
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.mesh import load_scene, read_textures

PAINT = lettered_checker()


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_lettered_checker_comes_back_equal_in_every_covered_texel(tmp_path: Path, kind: str) -> None:
    """Mesh -> texture and mask -> scene -> GLB -> texture and mask."""
    if kind == "glb":
        path = square_glb(tmp_path / "square.glb", PAINT, SQUARE * [0.5, 0.75] + [0.25, 0])
    else:
        Image.fromarray(PAINT).save(tmp_path / "paint.png")
        path = square_obj(tmp_path)
        text = path.read_text()
        for old, new in (("0 0", ".25 .25"), ("1 0", ".75 .25"), ("1 1", ".75 1"), ("0 1", ".25 1")):
            text = text.replace(f"vt {old}\n", f"vt {new}\n")
        path.write_text(text)
    before = read_textures(path).atlases[0]
    (tmp_path / "again.glb").write_bytes(load_scene(path).export(file_type="glb"))
    after = read_textures(tmp_path / "again.glb").atlases[0]
    mask = coverage_mask(before.triangles, (64, 64))
    expected = np.zeros((64, 64), dtype=bool)
    expected[:48, 16:48] = True
    assert np.array_equal(mask, expected)
    assert np.array_equal(coverage_mask(after.triangles, (64, 64)), mask)
    assert np.array_equal(after.texture[mask], PAINT[mask])
    assert after.surface.sum() == pytest.approx(before.surface.sum())


def test_scene_of_20000_parts(tmp_path: Path) -> None:
    """All wear one picture and lie on one place."""
    gltf = Gltf()
    primitive = gltf.primitive(SQUARE / 4, gltf.material(gltf.picture(PAINT)))
    for _ in range(20_000):
        gltf.place(primitive)
    start = time.process_time()
    (atlas,) = read_textures(gltf.write(tmp_path / "many.glb")).atlases
    assert time.process_time() - start < 20  # seconds; 3 on one core of an AMD EPYC
    assert len(atlas.parts) == len(set(atlas.parts)) == 20_000
    assert atlas.triangles.shape == (40_000, 3, 2)
    assert coverage_mask(atlas.triangles, (64, 64)).sum() == 16 * 16


def test_obj_of_20000_materials(tmp_path: Path) -> None:
    Image.fromarray(PAINT).save(tmp_path / "paint.png")
    path = square_obj(tmp_path)
    text = path.read_text().split("usemtl")[0]
    path.write_text(text + "".join(f"usemtl m{number}\nf 1/1 2/2 3/3\n" for number in range(20_000)))
    (tmp_path / "square.mtl").write_text("".join(f"newmtl m{number}\nmap_Kd paint.png\n" for number in range(20_000)))
    start = time.process_time()
    (atlas,) = read_textures(path).atlases
    assert time.process_time() - start < 20  # seconds; 4 on one core of an AMD EPYC
    assert len(atlas.parts) == len(atlas.triangles) == 20_000


def test_real_meshes(real_meshes: Path) -> None:
    """Every one is read; what is set aside is known, and why."""
    read = {path.stem: read_textures(path) for path in sorted(real_meshes.rglob("*.obj"))}
    assert len(read) == 113
    assert sum(len(item.atlases) for item in read.values()) == 181
    reasons = Counter()
    for item in read.values():
        for atlas in item.atlases:
            mask = coverage_mask(atlas.triangles, atlas.texture.shape[:2])
            reason = verdict(measure(atlas.texture, mask, atlas.triangles, atlas.surface))
            reasons[None if reason is None else reason.split("; ")[-1].split(" (")[0].split(" as large")[0]] += 1
    assert reasons == {
        None: 168,
        "a side below 64 holds too little to learn from": 7,
        "beyond 4:1 a square picture squeezes it too much": 4,
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
        assert any(words in item.reason for item in read[mesh].set_aside), mesh
