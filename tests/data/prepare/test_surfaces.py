"""The mesh's surface per texel: from meshes into a dataset, out of it again, and what `texdiff check` says of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from dataset_rows import rows_of
from PIL import Image

from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_records
from texdiff.errors import InputError
from texdiff.uv.image import read_grey16

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory, write_mesh: Callable, draw: Callable) -> Path:
    """On ISLANDS: `one` and `two` wear each one copy; `two` stands twice, the second time at three times the size."""
    folder = tmp_path_factory.mktemp("meshes")
    write_mesh(folder / "one.glb", draw(1, side=128))
    scene = trimesh.load(write_mesh(folder / "two.glb", draw(2, side=128)))
    (name,) = scene.geometry
    scene.graph.update(frame_to="again", matrix=np.diag([3.0, 3.0, 3.0, 1.0]), geometry=name)
    # And a part on the left half of the top left island, twelve times a quad's area.
    uv = np.array([[0.0, 0.5], [0.25, 0.5], [0.25, 1.0], [0.0, 1.0]])
    visual = trimesh.visual.TextureVisuals(uv=uv, material=scene.geometry[name].visual.material)
    corners = [(0, 0, 0), (3, 0, 0), (3, 4, 0), (0, 4, 0)]
    scene.add_geometry(trimesh.Trimesh(corners, [(0, 1, 2), (0, 2, 3)], visual=visual, process=False))
    scene.export(folder / "two.glb")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(name)
    return folder


@pytest.fixture(scope="module")
def prepared(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare_dataset([str(meshes)], output, workers=1, validation_fraction=0)
    return output


def surface_of(dataset: Path, text: str) -> np.ndarray:
    return read_grey16(dataset / "train" / rows_of(dataset)[text]["surface_file_name"])


def test_surfaces_add_over_parts_and_instances(prepared: Path, islands_mask: Callable) -> None:
    grey = surface_of(prepared, "two")
    assert grey.shape == (128, 128)
    # By island: the quads' area is 1 + 9 each, on 64 x 64 and on 32 x 64 texels, and 12 more on 32 x 64. Within a
    # quad the diagonal's texels go to one triangle, so the mean is right and single texels are within a few percent.
    density = np.square(grey / 65535.0)
    left, right, low = density[:64, :32].mean(), density[:64, 32:64].mean(), density[64:, 64:96].mean()
    assert right / left == pytest.approx((10 / 2) / (10 / 2 + 12), rel=0.06)
    assert low / left == pytest.approx(10 / (10 / 2 + 12), rel=0.06)
    whole = [density[:64, :64].sum(), density[64:, 64:96].sum()]
    assert whole[0] / whole[1] == pytest.approx(22 / 10, rel=1e-3)
    assert np.array_equal(grey > 0, islands_mask(128))
    assert grey.max() == 65535


def test_resolution_brings_surfaces_along(meshes: Path, prepared: Path, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "small", workers=1, resolution=64, validation_fraction=0)
    small = np.square(surface_of(tmp_path / "small", "two") / 65535.0)
    large = np.square(surface_of(prepared, "two") / 65535.0)
    means = large.reshape(64, 2, 64, 2).mean(axis=(1, 3))  # islands end at the new texels' borders
    np.testing.assert_allclose(small, means / means.max(), atol=2e-4)


def test_datasets_reads_it_as_a_column_beside_the_others(prepared: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset("imagefolder", data_dir=str(prepared), cache_dir=str(tmp_path))["train"]
    assert {"image", "mask", "text", "surface"} <= set(loaded.column_names)
    row = next(row for row in loaded if row["text"] == "two")
    assert (row["image"].mode, row["mask"].mode) == ("RGB", "L")
    assert np.array_equal(np.asarray(row["surface"]), surface_of(prepared, "two"))
    assert "`surface`" in (prepared / "README.md").read_text()


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_a_dataset_read_back_keeps_it(meshes: Path, prepared: Path, tmp_path: Path, form: str) -> None:
    prepare_dataset([str(meshes)], tmp_path / "first", workers=1, validation_fraction=0, format=form)
    assert list(check_dataset(str(tmp_path / "first"))) == [
        f"0 errors, 0 warnings in 2 textures of {tmp_path / 'first'}; mean coverage 37.5%"
    ]
    summary = prepare_dataset([str(tmp_path / "first")], tmp_path / "again", workers=1, validation_fraction=0)
    assert "surface" not in summary
    for text in ("one", "two"):
        assert np.array_equal(surface_of(tmp_path / "again", text), surface_of(prepared, text))


def test_together_with_a_mesh_each_use_counts_by_its_texels(meshes: Path, prepared: Path, tmp_path: Path) -> None:
    both = [str(prepared), str(meshes / "two.glb")]
    prepare_dataset(both, tmp_path / "both", workers=1, validation_fraction=0)
    row = next(row for row in rows_of(tmp_path / "both").values() if "two" in row["text"])
    grey = read_grey16(tmp_path / "both" / "train" / row["surface_file_name"])
    assert np.abs(grey.astype(int) - surface_of(prepared, "two")).max() <= 1  # the same twice is the same


def test_no_surfaces_where_one_texture_has_no_mesh(
    meshes: Path, tmp_path: Path, draw: Callable, islands_mask: Callable
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(draw(9)).save(pictures / "cup.png")
    Image.fromarray(islands_mask().astype(np.uint8) * 255).save(pictures / "cup-masklabel.png")
    summary = prepare_dataset([str(meshes), str(pictures)], tmp_path / "d", workers=1, validation_fraction=0)
    assert "no surface files, since some textures come without a mesh" in summary
    assert not (tmp_path / "d" / "train" / "surfaces").exists()
    assert all("surface_file_name" not in row for row in rows_of(tmp_path / "d").values())


def _shrink(path: Path) -> None:
    Image.fromarray(read_grey16(path)[::2]).save(path)


def _eight_bits(path: Path) -> None:
    Image.fromarray((read_grey16(path) >> 8).astype(np.uint8)).save(path)


def _shift(path: Path) -> None:
    Image.fromarray(np.roll(read_grey16(path), 1, axis=0)).save(path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(path.read_bytes()[:99]), "cannot be decoded"),
        (_shrink, "128x64"),
        (_eight_bits, "16-bit grey"),
        (_shift, "disagree"),
    ],
)
def test_check_says_what_is_odd_in_one_finding(prepared: Path, tmp_path: Path, damage: Callable, says: str) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(prepared, dataset)
    row = rows_of(dataset)["one"]
    damage(dataset / "train" / row["surface_file_name"])
    finding, summary = check_dataset(str(dataset))
    assert finding.startswith(f"train/{row['file_name']}: error: the surface file")
    assert says in finding
    assert summary.startswith("1 errors, 0 warnings")


def test_check_warns_of_a_dataset_that_has_some(prepared: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(prepared, dataset)
    rows = rows_of(dataset)
    (dataset / "train" / rows["one"].pop("surface_file_name")).unlink()
    (dataset / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    finding, summary = check_dataset(str(dataset))
    assert "1 of 2 textures have no surface file" in finding
    assert summary.startswith("0 errors, 1 warnings")


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_records_have_densities_of_mean_1(meshes: Path, prepared: Path, tmp_path: Path, form: str) -> None:
    prepare_dataset([str(meshes)], tmp_path / "d", workers=1, validation_fraction=0, format=form)
    for record in read_records(str(tmp_path / "d"), "train", needs_surface=True):
        whole = np.square(surface_of(prepared, record.captions[0]) / 65535.0)
        mask = record.read_mask()
        expected = whole / whole[mask].mean()
        np.testing.assert_allclose(record.density(128), expected, rtol=1e-5)
        half = record.density(64)
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, expected.reshape(64, 2, 64, 2).mean(axis=(1, 3)), rtol=1e-5)
        large = record.density(192)
        assert large[large > 0].mean() == pytest.approx(1, abs=1e-5)
        assert np.array_equal(large > 0, record.model_input(192, "fill")[1])


def test_records_without_surface_are_refused_only_where_it_is_needed(dataset: Path) -> None:
    records = read_records(str(dataset), "train")
    with pytest.raises(InputError, match=r"0\.png: has no surface file .nor have 5 others.*again from the meshes"):
        read_records(str(dataset), "train", needs_surface=True)
    with pytest.raises(InputError, match="no surface file"):
        records[0].density(64)


@pytest.mark.parametrize(("damage", "says"), [(Path.unlink, "can't be read"), (_shrink, "64x32|128x64")])
def test_a_record_says_what_is_wrong_with_its_surface(
    prepared: Path, tmp_path: Path, damage: Callable, says: str
) -> None:
    shutil.copytree(prepared, tmp_path / "d")
    damage(tmp_path / "d" / "train" / rows_of(prepared)["one"]["surface_file_name"])
    record = next(r for r in read_records(str(tmp_path / "d"), "train") if r.captions == ("one",))
    with pytest.raises(InputError, match=says) as error:
        record.density(64)
    assert "\n" not in str(error.value)


def test_a_surface_of_zeros_is_refused(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "d")
    path = tmp_path / "d" / "train" / rows_of(prepared)["one"]["surface_file_name"]
    Image.fromarray(np.zeros((128, 128), np.uint16)).save(path)
    record = next(r for r in read_records(str(tmp_path / "d"), "train") if r.captions == ("one",))
    with pytest.raises(InputError, match="is 0 wherever the mask is white"):
        record.density(64)
