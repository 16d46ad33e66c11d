"""Captions files, sidecars and names."""

from pathlib import Path

import pytest

from texdiff.data.prepare.sources.captions import caption_from_name, find_captions, read_captions, read_sidecar
from texdiff.errors import InputError


@pytest.mark.parametrize(
    ("stem", "caption"),
    [
        ("JapaneseLantern", "japanese lantern"),
        ("wirelessOfficePhone3", "wireless office phone"),
        ("entry-bell-speech-unit", "entry bell speech unit"),
        ("kids_shelves", "kids shelves"),
        ("USBStick", "usb stick"),
        ("чашка2", "чашка"),
        ("0042", "0042"),
    ],
)
def test_a_name_becomes_words(stem: str, caption: str) -> None:
    assert caption_from_name(stem) == caption


def test_lines_about_one_mesh_add_up(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(
        '{"mesh": "a/b.obj", "text": "a  red\\ncup", "license": "CC0-1.0", "author": "A"}\n\n'
        '{"mesh": "a\\\\b.obj", "text": ["a red cup", "a mug"]}\n{"mesh": "c.glb", "text": ""}\n'
    )
    found = read_captions(path)
    credit = found.find(tmp_path / "a" / "b.obj", "b.obj")
    assert credit is not None
    assert credit.texts == ("a red cup", "a mug")
    assert (credit.license, credit.author) == ("CC0-1.0", "A")
    assert found.unused == {"c.glb"}
    assert found.find(tmp_path / "x.obj", "x.obj") is None
    by_label = found.find(Path("/elsewhere/c.glb"), "c.glb")
    assert by_label is not None
    assert by_label.texts == ()


def test_csv_says_the_same_as_jsonl(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text('\ufeffmesh,text,author\na.obj,"a red, round cup",B\n', encoding="utf-8")
    found = find_captions(tmp_path)
    assert found is not None
    credit = found.find(tmp_path / "a.obj", "a.obj")
    assert credit is not None
    assert (credit.texts, credit.license, credit.author) == (("a red, round cup",), None, "B")


@pytest.mark.parametrize("content", ["mesh;text\na.obj;a red, round cup\n", "mesh\tcaption\na.obj\ta red, round cup\n"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, content: str) -> None:
    """Where a comma is the decimal point, they save semicolons; the column has any of its usual names."""
    (tmp_path / "captions.csv").write_text(content)
    assert read_captions(tmp_path / "captions.csv").credits["a.obj"].texts == ("a red, round cup",)


def test_a_sidecar_holds_one_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n")
    assert read_sidecar(tmp_path / "a.obj") == ("one", "two")
    assert read_sidecar(tmp_path / "b.obj") == ()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.jsonl", b'{"mesh": "a"}\nnot json\n', "line 2: not valid JSON"),
        ("c.jsonl", b"[1]\n", "not a JSON object"),
        ("c.jsonl", b'{"text": "x"}\n', 'no "mesh" (its keys: "text")'),
        ("c.csv", b"mesh,text\na.glb,red, round\n", "line 2: has more values than the first line"),
        ("c.jsonl", b'{"mesh": "a", "text": 3}\n', '"text" must be'),
        ("c.jsonl", b'{"mesh": "a", "text": [3]}\n', '"text" must be'),
        ("c.jsonl", b'{"mesh": "a", "license": 3}\n', '"license" must be'),
        ("c.jsonl", b"\xff\xfe{}\n", "not readable as UTF-8"),
        ("c.jsonl", b"", "contains no captions"),
        ("c.txt", b"x", ".jsonl or .csv"),
    ],
)
def test_a_broken_captions_file_is_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name) as error:
        read_captions(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_captions_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.csv: cannot be read \(No such file or directory\)"):
        read_captions(tmp_path / "c.csv")
