"""Where on the mesh each texel lies: from meshes into a dataset, out of it again, and what `texdiff check` says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from dataset_rows import rows_of

from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_records
from texdiff.uv.image import write_png
from texdiff.uv.layout.map_image import encode_map, read_map


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory, write_mesh: Callable, draw: Callable) -> Path:
    """On ISLANDS: `one`; and `two` with an instance three times the size, ten units along y and turned about y.

    A quad is a unit wide and high; the second one is two units along x.
    """
    folder = tmp_path_factory.mktemp("meshes")
    write_mesh(folder / "one.glb", draw(1, side=128))
    scene = trimesh.load(write_mesh(folder / "two.glb", draw(2, side=128)))
    (name,) = scene.geometry
    turned = trimesh.transformations.rotation_matrix(-np.pi / 2, [0, 1, 0]) @ np.diag([3.0, 3.0, 3.0, 1.0])
    turned[1, 3] = 10
    scene.graph.update(frame_to="again", matrix=turned, geometry=name)
    scene.export(folder / "two.glb")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(name)
    return folder


@pytest.fixture(scope="module")
def prepared(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare_dataset([str(meshes)], output, workers=1, validation_fraction=0)
    return output


def layout_of(dataset: Path, text: str) -> np.ndarray:
    return read_map(dataset / "train" / rows_of(dataset)[text]["layout_file_name"]) / 65535


def expected(mask: np.ndarray, instance: Callable[[np.ndarray], np.ndarray], low: list, high: list) -> np.ndarray:
    """The map of ISLANDS: texel centre -> corner of a quad -> `instance` -> box of the object."""
    side = len(mask)
    row, column = (np.mgrid[0:side, 0:side] + 0.5) / side
    u, v = column, 1 - row
    left = np.stack([u * 2, (v - 0.5) * 2, 0 * u], axis=-1)  # the quad of u 0-0.5, v 0.5-1
    right = np.stack([2 + (u - 0.5) * 4, v * 2, 0 * u], axis=-1)
    place = instance(np.where((v > 0.5)[..., None], left, right))
    middle, longest = (np.array(low) + high) / 2, np.max(np.array(high) - low)
    return np.where(mask[..., None], 0.5 + 0.9 * (place - middle) / longest, 0)


def test_each_texel_knows_its_place_in_the_whole_object(prepared: Path, islands_mask: Callable) -> None:
    mask = islands_mask(128)
    one = expected(mask, lambda place: place, [0, 0, 0], [3, 1, 0])
    np.testing.assert_allclose(layout_of(prepared, "one"), one, atol=1e-5)
    # Of the two instances the larger one is seen, in the box of both: turned from x to z, x of the first is in it too.
    two = expected(mask, lambda p: 3 * p[..., [2, 1, 0]] + [0, 10, 0], [0, 0, 0], [3, 13, 9])
    np.testing.assert_allclose(layout_of(prepared, "two"), two, atol=1e-5)
    assert (layout_of(prepared, "two")[~mask] == 0).all()
    rows = [json.loads(line) for line in (prepared / "audit.jsonl").read_text().splitlines()]
    assert [row["without_position"] for row in rows] == [0.0, 0.0]


def test_it_is_drawn_anew_at_another_resolution(meshes: Path, islands_mask: Callable, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "small", workers=1, resolution=64, validation_fraction=0)
    one = expected(islands_mask(64), lambda place: place, [0, 0, 0], [3, 1, 0])
    np.testing.assert_allclose(layout_of(tmp_path / "small", "one"), one, atol=1e-5)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_several_meshes_the_one_with_the_most_surface_is_drawn(
    write_mesh: Callable, draw: Callable, islands_mask: Callable, tmp_path: Path, order: str
) -> None:
    small, large = (tmp_path / "meshes" / f"{name}.glb" for name in order)
    write_mesh(small, draw(1, side=128))
    scene = trimesh.load(write_mesh(large, draw(1, side=128), islands=(((0.0, 0.5), (0.5, 1.0)),)))
    scene.apply_transform(np.diag([2.0, 5.0, 1.0, 1.0]))
    scene.export(large)
    prepare_dataset([str(tmp_path / "meshes")], tmp_path / "d", workers=1, validation_fraction=0)
    (record,) = read_records(str(tmp_path / "d"), "train", layout_column="layout")
    layout = record.layout_map(128) / 65535
    assert np.array_equal(record.read_mask(), islands_mask(128))  # of both
    assert np.ptp(layout[:64, :64, 1]) == pytest.approx(0.9 * 63 / 64, abs=1e-3)
    assert np.ptp(layout[:64, :64, 0]) == pytest.approx(0.9 * 63 / 64 * 2 / 5, abs=1e-3)
    assert (layout[64:] == 0).all()
    (row,) = [json.loads(line) for line in (tmp_path / "d/audit.jsonl").read_text().splitlines()]
    assert row["without_position"] == pytest.approx(1 / 3)
    warning, summary = check_dataset(str(tmp_path / "d"))
    assert "the layout map is 0 on 33.33% of the texels that the mask covers" in warning
    assert summary.startswith("0 errors, 1 warnings")


def test_parquet_and_another_preparation_keep_it(meshes: Path, prepared: Path, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "p", workers=1, validation_fraction=0, format="parquet")
    prepare_dataset([str(prepared)], tmp_path / "again", workers=1, validation_fraction=0)
    for other in ("p", "again"):
        for record in read_records(str(tmp_path / other), "train", layout_column="layout"):
            layout = record.layout_map(128) / 65535
            np.testing.assert_array_equal(layout, layout_of(prepared, record.captions[0]))
    prepare_dataset([str(tmp_path / "p")], tmp_path / "small", workers=1, resolution=64, validation_fraction=0)
    at = 2 * np.arange(64) + 1
    np.testing.assert_array_equal(layout_of(tmp_path / "small", "two"), layout_of(prepared, "two")[np.ix_(at, at)])


def test_there_are_none_where_a_texture_comes_without_a_mesh(prepared: Path, tmp_path: Path, dataset: Path) -> None:
    summary = prepare_dataset([str(prepared), str(dataset)], tmp_path / "d", workers=1, validation_fraction=0)
    assert "no layout maps, since some textures come without a mesh" in summary
    assert not (tmp_path / "d/train/layouts").exists()
    assert "layout" not in (tmp_path / "d/train/metadata.jsonl").read_text()
    assert "`layout`" not in (tmp_path / "d/README.md").read_text()
    assert "`layout`" in (prepared / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "says", "wrong"),
    [
        (lambda path: path.write_bytes(b"none"), "the layout map is not an image", True),
        (lambda path: path.unlink(), "the layout map does not exist", True),
        (lambda path: path.write_bytes(encode_map(0 * read_map(path))), "is 0 wherever the mask is white", True),
        (lambda path: path.write_bytes(encode_map(read_map(path)[:64])), "is 128x64 but the image 128x128", True),
        (lambda path: path.write_bytes(encode_map(read_map(path) | 1)), "is not 0 on 62.50% of the texels", False),
        (
            lambda path: path.write_bytes(encode_map(np.roll(read_map(path), 32, axis=1))),
            "on 66.67% of the texels that",
            False,
        ),
    ],
)
def test_check_says_what_is_wrong_with_one(
    prepared: Path, tmp_path: Path, change: Callable, says: str, wrong: bool
) -> None:
    shutil.copytree(prepared, tmp_path / "d")
    path = tmp_path / "d/train" / rows_of(prepared)["one"]["layout_file_name"]
    assert next(check_dataset(str(tmp_path / "d"))).startswith("0 errors, 0 warnings")
    change(path)
    *findings, summary = check_dataset(str(tmp_path / "d"))
    assert any(says in finding and ("error" in finding) == wrong for finding in findings), findings
    assert summary.startswith("0 errors") != wrong


def test_check_warns_of_a_dataset_that_has_some(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "d")
    rows = rows_of(prepared)
    del rows["one"]["layout_file_name"]
    (tmp_path / "d/train/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    findings = list(check_dataset(str(tmp_path / "d")))
    assert any("1 of 2 textures have no layout map" in finding for finding in findings)
    assert any("no row of the metadata names it" in finding for finding in findings)


def test_of_an_enormous_texture_the_map_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from texdiff.data.prepare import build_stage

    monkeypatch.setattr(build_stage, "_LAYOUT_SIDE", 16)
    uv = np.array([[[0, 0], [1, 0], [0, 1]]], float)
    corners = np.concatenate([uv, uv[..., :1] * 0], axis=2)
    np.savez(tmp_path / "0.npz", triangles=uv, mesh_area=[0.5], corners=corners, bounds=[[0, 0, 0], [1, 1, 0]])
    write_png(np.zeros((64, 64, 3), np.uint8), tmp_path / "texture.png")
    job = build_stage.BuildJob("content", ("0.npz",), None, tmp_path, "entry")
    mask = np.tril(np.ones((64, 64), bool))
    layout = build_stage._layout(job, mask)
    assert layout.shape == (16, 16, 3)
    assert np.array_equal(
        layout.any(axis=2), np.tril(np.ones((16, 16), bool), -1)
    )  # centres on its edge are not the triangle's
    assert build_stage._layout(job, mask[:, :32]).shape == (16, 8, 3)  # as check wants it
