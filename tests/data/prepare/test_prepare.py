"""`texdiff prepare` from folders of meshes to a dataset on disk."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.errors import InputError


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metadata(dataset: Path) -> dict[str, dict]:
    """asset_id -> its row, with its split, over both splits."""
    files = sorted(dataset.glob("*/metadata.jsonl"))
    return {row["asset_id"]: row | {"split": file.parent.name} for file in files for row in rows_of(file)}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory, write_mesh: Callable, draw: Callable) -> Path:
    """Five meshes with four textures (one used twice, in both formats), and files that cannot be used."""
    folder = tmp_path_factory.mktemp("meshes")
    write_mesh(folder / "set" / "RedCup.glb", draw(1))
    write_mesh(folder / "set" / "redCup2.obj", draw(1), islands=(((0.75, 0.75), (1.0, 1.0)),))
    write_mesh(folder / "blueBowl.obj", draw(2))
    write_mesh(folder / "Tisch <script>&.glb", draw(3))
    write_mesh(folder / "plate.glb", draw(4, side=48), islands=(((0.0, 0.0), (1.0, 1.0)),))
    (folder / "truncated.glb").write_bytes((folder / "plate.glb").read_bytes()[:600])
    (folder / "empty.glb").write_bytes(b"")
    (folder / "plain.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / ".hidden.obj").write_text("")
    lines = [
        {"mesh": "set/RedCup.glb", "text": "a red cup", "license": "CC0-1.0", "author": "Ann"},
        {"mesh": "set/redCup2.obj", "text": "a cup", "license": "CC-BY-4.0", "author": "Bob"},
        {"mesh": "gone.obj", "text": "not here"},
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "blueBowl.txt").write_text("a blue bowl\n")
    return folder


@pytest.fixture(scope="module")
def prepared(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    return output, prepare_dataset([str(meshes)], output, workers=1, validation_fraction=0.3)


def test_one_entry_per_texture_with_the_union_of_its_uses(
    prepared: tuple[Path, str], draw: Callable, islands_mask: Callable
) -> None:
    output, _ = prepared
    shared = next(row for row in metadata(output).values() if row["source"] == "set/RedCup.glb")
    assert shared["meshes"] == ["set/RedCup.glb", "set/redCup2.obj"]
    assert shared["asset_id"].startswith("redcup-")
    assert shared["text"] == ["a red cup", "a cup"]
    assert (shared["license"], shared["author"]) == ("CC0-1.0 AND CC-BY-4.0", "Ann; Bob")
    expected = islands_mask()
    expected[:16, 48:] = True
    side = output / shared["split"]
    with Image.open(side / shared["mask_file_name"]) as picture:
        mask = np.asarray(picture)
        assert picture.mode == "L"
    np.testing.assert_array_equal(mask, np.where(expected, 255, 0))
    assert shared["coverage"] == expected.mean()
    with Image.open(side / shared["file_name"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), draw(1))


@pytest.mark.parametrize("source", ["blueBowl.obj", "Tisch <script>&.glb"])
def test_v_points_up_in_both_formats(prepared: tuple[Path, str], islands_mask: Callable, source: str) -> None:
    output, _ = prepared
    row = next(row for row in metadata(output).values() if row["source"] == source)
    with Image.open(output / row["split"] / row["mask_file_name"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture) == 255, islands_mask())


def test_every_file_is_accounted_for(prepared: tuple[Path, str]) -> None:
    output, summary = prepared
    audit = {row["source"]: row for row in rows_of(output / "audit.jsonl")}
    assert set(audit) == {
        "set/RedCup.glb", "blueBowl.obj", "Tisch <script>&.glb", "plate.glb", "truncated.glb", "empty.glb", "plain.obj",
    }  # fmt: skip
    assert {name for name, row in audit.items() if row["kept"]} == {
        "set/RedCup.glb", "blueBowl.obj", "Tisch <script>&.glb",
    }  # fmt: skip
    assert "48x48" in audit["plate.glb"]["reason"]
    for name in ("truncated.glb", "empty.glb", "plain.obj"):
        assert audit[name]["reason"]
        assert "\n" not in audit[name]["reason"]
        assert str(output.parent.parent) not in audit[name]["reason"]
    assert audit["blueBowl.obj"]["coverage"] == 0.375
    assert "3 textures kept (2 train, 1 validation)" in summary
    assert "no mesh here for 1 line of captions.jsonl (gone.obj)" in summary
    assert "\n" not in summary


def test_splits_share_no_texture(prepared: tuple[Path, str]) -> None:
    contents = [row["content"] for row in rows_of(prepared[0] / "audit.jsonl") if row["kept"]]
    assert len(contents) == len(set(contents))
    held_out = [row["content"] for row in rows_of(prepared[0] / "audit.jsonl") if row["split"] == "validation"]
    assert held_out == [min(contents)]


def test_the_number_of_workers_changes_no_byte(prepared: tuple[Path, str], meshes: Path, tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    prepare_dataset([str(meshes)], output, workers=2, validation_fraction=0.3)
    again = bytes_of(output)
    once = bytes_of(prepared[0])
    assert again.keys() == once.keys()
    assert [name for name in once if once[name] != again[name]] == []
    assert list(tmp_path.iterdir()) == [output]


def test_datasets_reads_image_mask_and_text(prepared: tuple[Path, str], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(prepared[0]), cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 2, "validation": 1}
    row = loaded["train"][0]
    assert (row["image"].mode, row["mask"].mode) == ("RGB", "L")
    assert all(isinstance(text, str) for text in row["text"])


def test_the_page_is_whole_and_escaped(prepared: tuple[Path, str]) -> None:
    page = (prepared[0] / "audit.html").read_text()
    assert "Tisch &lt;script&gt;&amp;.glb" in page
    assert "Tisch <script>" not in page
    assert page.count("data:image/webp;base64,") == 4  # each texture that could be read
    assert "http:" not in page
    assert "https:" not in page
    assert all(source.startswith("data:image/") for source in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_the_card_names_licences_and_authors(prepared: tuple[Path, str]) -> None:
    card = (prepared[0] / "README.md").read_text()
    assert "| CC0-1.0 AND CC-BY-4.0 | 1 |" in card
    assert "| Ann; Bob | CC0-1.0 AND CC-BY-4.0 | set/RedCup.glb, set/redCup2.obj |" in card


def test_resolution_template_and_one_caption_each(meshes: Path, tmp_path: Path, islands_mask: Callable) -> None:
    output = tmp_path / "dataset"
    prepare_dataset(
        [str(meshes / name) for name in ("blueBowl.obj", "set/RedCup.glb", "blueBowl.obj")],
        output,
        resolution=128,
        caption_template="{caption}, uv atlas",
        validation_fraction=0,
        workers=1,
    )
    rows = metadata(output)
    assert [row["text"] for row in rows.values()] == ["a blue bowl, uv atlas", "red cup, uv atlas"]
    assert {row["split"] for row in rows.values()} == {"train"}
    for row in rows.values():
        with Image.open(output / "train" / row["file_name"]) as texture:
            assert texture.size == (128, 128)
        with Image.open(output / "train" / row["mask_file_name"]) as mask:
            np.testing.assert_array_equal(np.asarray(mask) == 255, islands_mask(128))


def test_a_dataset_is_replaced_and_nothing_else_is(prepared: tuple[Path, str], meshes: Path, tmp_path: Path) -> None:
    source = [str(meshes / "blueBowl.obj")]
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a dataset"):
        prepare_dataset(source, taken, workers=1)
    partial = tmp_path / "new.partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        prepare_dataset(source, tmp_path / "new", workers=1)
    assert bytes_of(tmp_path) == {"taken/thesis.tex": b"years of work", "new.partial/thesis.tex": b"years of work"}
    output = tmp_path / "own"
    prepare_dataset(source, output, workers=1)
    (output / "train" / "old.png").write_bytes(b"")
    prepare_dataset(source, output, workers=1)
    assert "train/old.png" not in bytes_of(output)
    assert not (tmp_path / "own.old").exists()


def test_nothing_usable_leaves_the_audit_alone(meshes: Path, prepared: tuple[Path, str], tmp_path: Path) -> None:
    output, source = tmp_path / "dataset", str(meshes / "plain.obj")
    for _ in range(2):  # the second time it is replaced
        with pytest.raises(InputError, match=r"nothing usable in 1 asset: .*audit\.html") as error:
            prepare_dataset([source], output, workers=1)
        assert "\n" not in str(error.value)
        assert str(output / "audit.html") in str(error.value)
        assert bytes_of(tmp_path).keys() == {"dataset/audit.jsonl", "dataset/audit.html"}
    (row,) = rows_of(output / "audit.jsonl")
    assert (row["source"], row["kept"]) == ("plain.obj", False)
    with pytest.raises(InputError, match="no dataset"):
        list(check_dataset(str(output)))

    prepare_dataset([str(meshes / "blueBowl.obj")], output, workers=1)
    before = bytes_of(output)
    with pytest.raises(InputError) as error:  # a dataset that is there stays
        prepare_dataset([source], output, workers=1)
    assert str(tmp_path / "dataset.audit" / "audit.html") in str(error.value)
    assert bytes_of(output) == before
    assert bytes_of(tmp_path / "dataset.audit").keys() == {"audit.jsonl", "audit.html"}


def test_links_to_folders_are_named_and_not_followed(write_mesh: Callable, draw: Callable, tmp_path: Path) -> None:
    write_mesh(tmp_path / "other" / "cup.glb", draw(1))
    write_mesh(tmp_path / "meshes" / "bowl.glb", draw(2))
    (tmp_path / "meshes" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "meshes" / "round").symlink_to(tmp_path / "meshes")
    (tmp_path / "meshes" / "loop.glb").symlink_to(tmp_path / "meshes" / "loop.glb")
    summary = prepare_dataset([str(tmp_path / "meshes")], tmp_path / "data", workers=1)
    audit = {row["source"]: row for row in rows_of(tmp_path / "data" / "audit.jsonl")}
    assert {name for name, row in audit.items() if row["kept"]} == {"bowl.glb"}
    for name in ("more", "round"):
        assert "is a link to a folder" in audit[name]["reason"]
    assert "loop.glb" in audit
    assert "2 x is a link to a folder" in summary


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("gone", {}, "no such file or folder"),
        ("captions.jsonl", {}, "not a mesh"),
        (".", {"resolution": 100}, "multiple of 8"),
        (".", {"caption_template": "uv atlas"}, "{caption}"),
        (".", {"validation_fraction": 1.0}, "at least 0 and below 1"),
        (".", {"workers": 0}, "at least 1"),
        (".", {"captions": "gone.jsonl"}, "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_one_line(meshes: Path, tmp_path: Path, source: str, options: dict, says: str) -> None:
    if "captions" in options:
        options = {"captions": meshes / options["captions"]}
    with pytest.raises(InputError) as error:
        prepare_dataset([str(meshes / source)], tmp_path / "dataset", **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
