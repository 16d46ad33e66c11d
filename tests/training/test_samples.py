"""Sample pictures of a training run, drawn with a real pipeline on a real dataset of meshes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from texdiff.config import DataConfig, RunConfig, TrainingConfig, ValidationConfig
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_records
from texdiff.render.viewer_mesh import load_triangles
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.metrics_log import MetricsLog
from texdiff.training.samples import SampleImages, dim_void, read_samples

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two meshes: a square that wears the left half of its texture, beside a green one without a texture."""
    folder = tmp_path_factory.mktemp("sampled")
    rng = np.random.default_rng(0)
    for name in ("cup", "jug"):
        texture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
        faces = [[0, 1, 2], [0, 2, 3]]
        worn = trimesh.Trimesh(np.c_[corners, np.zeros(4)], faces, process=False)
        material = PBRMaterial(baseColorTexture=texture)
        worn.visual = trimesh.visual.TextureVisuals(uv=corners * [0.5, 1], material=material)
        plain = trimesh.Trimesh(np.c_[corners + np.array([2, 0]), np.zeros(4)], faces, process=False)
        plain.visual = trimesh.visual.TextureVisuals(material=PBRMaterial(baseColorFactor=[0, 255, 0, 255]))
        (folder / "meshes").mkdir(exist_ok=True)
        trimesh.Scene({"worn": worn, "plain": plain}).export(folder / f"meshes/{name}.glb")
    prepare_dataset([str(folder / "meshes")], folder / "set", validation_fraction=0.0, workers=1)
    return folder / "set"


def log_of(run: Path, config: TrainingConfig) -> MetricsLog:
    return MetricsLog(Run(run), Parallel(cpu=True), 4, config)


def test_the_same_samples_at_every_step(dataset: Path, loaded: Any, tmp_path: Path) -> None:
    config = TrainingConfig(
        data=DataConfig(dataset=str(dataset), resolution=64),
        validation=ValidationConfig(num_images=3, num_inference_steps=1),
        run=RunConfig(report_to="none"),
    )
    records = read_records(str(dataset), "train")
    for _ in range(2):  # a resumed run draws what the first part of it drew
        samples = SampleImages(config, log_of(tmp_path, config), records)
        samples.draw(loaded, 0)
    samples.draw(loaded, 7)
    rows = read_samples(Run(tmp_path))
    assert [row.prompt for row in rows] == ["cup", "jug", "cup"]
    pictures = {}
    for step in ("step-00000000", "step-00000007"):
        folder = tmp_path / "samples" / step
        assert len(list(folder.iterdir())) == 9
        pictures[step] = [np.asarray(Image.open(folder / row.file)) for row in rows]
        for row, atlas in zip(rows, pictures[step], strict=True):
            dimmed = np.asarray(Image.open(folder / row.file.replace(".png", "-dimmed.png")))
            np.testing.assert_array_equal(dimmed[:, :32], atlas[:, :32])
            assert np.abs(dimmed[:, 32:].astype(int) - 96).max() <= 20
            assert np.asarray(Image.open(folder / row.file.replace(".png", "-mesh.png"))).shape == (512, 512, 3)
    np.testing.assert_array_equal(pictures["step-00000000"], pictures["step-00000007"])
    assert (pictures["step-00000000"][0] != pictures["step-00000000"][2]).any()  # another noise

    triangles = load_triangles(tmp_path / "samples" / str(rows[0].mesh))
    assert triangles.worn == 2
    assert len(triangles.corners) == 4
    np.testing.assert_array_equal(triangles.colours[2:], np.broadcast_to([0, 255, 0], (2, 3, 3)))
    assert triangles.corners[:2, :, 0].max() < triangles.corners[2:, :, 0].min()


def test_prompts_of_ones_own_and_a_dataset_without_meshes(dataset: Path, loaded: Any, tmp_path: Path) -> None:
    (dataset / "meshes.json").rename(tmp_path / "gone.json")
    try:
        config = TrainingConfig(
            data=DataConfig(dataset=str(dataset), resolution=64),
            validation=ValidationConfig(num_images=1, num_inference_steps=1, prompts=("a/b <c>",)),
        )
        SampleImages(config, log_of(tmp_path, config), read_records(str(dataset), "train")).draw(loaded, 3)
    finally:
        (tmp_path / "gone.json").rename(dataset / "meshes.json")
    (row,) = read_samples(Run(tmp_path))
    assert (row.prompt, row.file, row.mesh) == ("a/b <c>", "00-a-b-c.png", None)
    names = sorted(path.name for path in (tmp_path / "samples/step-00000003").iterdir())
    assert names == ["00-a-b-c-dimmed.png", "00-a-b-c.png"]


def test_every_prompt_of_ones_own_is_drawn(dataset: Path, loaded: Any, tmp_path: Path) -> None:
    """Also where there are more of them than images or textures; no images are none."""
    prompts = tuple(f"prompt {letter}" for letter in "abcde")
    config = TrainingConfig(
        data=DataConfig(dataset=str(dataset), resolution=64),
        validation=ValidationConfig(num_images=2, num_inference_steps=1, prompts=prompts),
    )
    SampleImages(config, log_of(tmp_path, config), read_records(str(dataset), "train")).draw(loaded, 3)
    rows = read_samples(Run(tmp_path))
    assert [row.prompt for row in rows] == list(prompts)
    assert all((tmp_path / "samples/step-00000003" / row.file).is_file() for row in rows)


def test_textures_that_their_meshes_show_are_chosen(tmp_path: Path) -> None:
    """Of a mesh with two textures the one on more of it, and before it a texture that its whole mesh wears."""
    rng = np.random.default_rng(1)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    for name, sides in (("b-desk", (0.1, 3.0)), ("c-rug", (1.0,))):
        scene = {}
        for number, side in enumerate(sides):
            texture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            part = trimesh.Trimesh(np.c_[corners * side, np.full(4, number)], [[0, 1, 2], [0, 2, 3]], process=False)
            part.visual = trimesh.visual.TextureVisuals(uv=corners, material=PBRMaterial(baseColorTexture=texture))
            scene[str(number)] = part
        (tmp_path / "meshes").mkdir(exist_ok=True)
        trimesh.Scene(scene).export(tmp_path / f"meshes/{name}.glb")
    prepare_dataset([str(tmp_path / "meshes")], tmp_path / "set", validation_fraction=0.0, workers=1)
    config = TrainingConfig(
        data=DataConfig(dataset=str(tmp_path / "set"), resolution=64), validation=ValidationConfig(num_images=2)
    )
    samples = SampleImages(config, log_of(tmp_path / "run", config), read_records(str(tmp_path / "set"), "train"))
    samples.open()
    assert [row.prompt for row in samples.rows] == ["c rug", "b desk"]
    triangles = load_triangles(tmp_path / "run/samples" / str(samples.rows[1].mesh))
    edges = triangles.corners[:2, 0] - triangles.corners[:2, 1]
    assert np.linalg.norm(edges, axis=1).max() > 1  # the large part wears it


def test_what_is_no_list_of_samples_is_none(tmp_path: Path) -> None:
    assert read_samples(Run(tmp_path)) == []
    (tmp_path / "samples").mkdir()
    for text in ("{", "[1]", json.dumps([{"prompt": "x"}])):
        Run(tmp_path).samples_file.write_text(text)
        assert read_samples(Run(tmp_path)) == []


def test_dark_islands_stand_out_from_the_void() -> None:
    shown = dim_void(np.zeros((2, 2, 3), np.uint8), np.array([[True, False], [False, False]]))
    assert shown[0, 0].tolist() == [0, 0, 0]
    assert shown[1, 1].min() > 60


def test_void_on_the_samples_surface(dataset: Path, loaded: Any, tmp_path: Path) -> None:
    """As the measure has it of each sample, by texels and by the mesh's surface; nothing without a common colour."""
    config = TrainingConfig(
        data=DataConfig(dataset=str(dataset), resolution=64),
        validation=ValidationConfig(num_images=2, num_inference_steps=1),
        run=RunConfig(report_to="none"),
    )
    records = read_records(str(dataset), "train")
    samples = SampleImages(config, log_of(tmp_path, config), records)
    samples.draw(loaded, 3)
    assert samples.void(3) == {}
    folder = tmp_path / "samples/step-00000003"
    for row, worn in zip(read_samples(Run(tmp_path)), (8, 16), strict=True):  # of 32 covered columns
        atlas = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        atlas[:, :worn] = (250, 0, 250)
        atlas[:, 32:] = (250, 0, 250)
        Image.fromarray(atlas).save(folder / row.file)
    voids = {"textures": 2, "flat": 1.0, "colours": [[[255, 0, 255], 1.0]]}
    (tmp_path / "masks.json").write_text(json.dumps({"voids": voids}))
    found = SampleImages(config, log_of(tmp_path, config), records).void(3)  # a resumed run's
    # Two columns of each see the noise beside them. One square, so that surface and texels agree.
    assert found["void_on_surface"] == pytest.approx((6 + 14) / 2 / 32)
    assert found["void_on_mesh"] == pytest.approx(found["void_on_surface"], abs=0.01)
    assert found["void_on_surface_real"] == 0
