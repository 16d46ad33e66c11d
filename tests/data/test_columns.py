"""Records as columns: each is the record it would be alone, whatever way it is asked for."""

from dataclasses import fields
from pathlib import Path

import pytest

from texdiff.config import SourceConfig
from texdiff.data.cache.keys import key_of, key_of_lists
from texdiff.data.caption_length import find_long_captions
from texdiff.data.columns import Column, Folder, RecordTable, Row, pick
from texdiff.data.image_source import StoredFile
from texdiff.data.record import Record
from texdiff.data.records import read_records, read_sources
from texdiff.data.records.captions import distinct_captions
from texdiff.errors import InputError

NAMES = [field.name for field in fields(Record)]


def rows(count: int) -> list[Row]:
    return [
        Row(
            row=n,
            image=f"textures/{n}.png",
            mask=f"masks/{n}.png",
            captions=[f"caption {n}", "another"][: 1 + n % 2],
            surface=f"surfaces/{n}.png" if n % 3 else None,
            layout=f"layouts/{n}.png" if n % 5 else None,
            coverage=None if n % 7 == 0 else n / count,
            repeats=1 + n % 4,
            regularisation=n % 11 == 0,
        )
        for n in range(count)
    ]


def record(row: Row, folder: str) -> Record:
    """By hand."""
    files = {
        kind: StoredFile(folder + name)
        for kind in ("image", "mask", "surface", "layout")
        if (name := row._asdict()[kind])
    }
    told = {"coverage": row.coverage, "repeats": row.repeats, "regularisation": row.regularisation}
    return Record(name=folder + row.image, captions=tuple(row.captions), **files, **told)


def test_every_way_to_a_record_gives_the_same() -> None:
    """More than fit into one batch."""
    given = rows(20_000)
    table = RecordTable.of(Folder("/data/train/"), given)
    expected = [record(row, "/data/train/") for row in given]
    assert len(table) == len(expected)
    assert list(table) == expected
    places = [0, 8191, 8192, 16_384, 19_999, -1]
    assert [table[place] for place in places] == [expected[place] for place in places]
    assert table[5:20_000:3001] == expected[5:20_000:3001]
    assert pick(table, places[:-1])[:] == [expected[place] for place in places[:-1]]
    for name in NAMES:
        assert list(Column(table, name)) == [getattr(one, name) for one in expected], name
        assert Column(table, name)[8195] == Column(expected, name)[8195]
    with pytest.raises(IndexError):
        table[20_000]


def test_a_record_takes_few_bytes() -> None:
    """Of its names and captions there is one copy, and nothing else to speak of."""
    given = [row._replace(surface=None, layout=None) for row in rows(30_000)]
    text = sum(len(row.image) + len(row.mask) + sum(map(len, row.captions)) for row in given)
    table = RecordTable.of(Folder("/data/train/"), given)
    assert table.table.nbytes - text < 100 * len(given)


def test_sources_are_joined(make_dataset, tmp_path: Path) -> None:
    """Held-out textures take turns; prefixes stand before captions; one source without any held out is no trouble."""
    first = make_dataset(tmp_path / "first", [0.5, 0.4, 0.3, 0.6, 0.7], held_out=2, text=["a crate"])
    second = make_dataset(tmp_path / "second", [0.5, 0.4, 0.3], held_out=1)
    third = make_dataset(tmp_path / "third", [0.6], held_out=0)
    sources = [SourceConfig(path=str(first), caption_prefix="wooden,"), SourceConfig(path=str(second))]
    sources.append(SourceConfig(path=str(third)))
    columns = ("image", "mask", "text", None)
    train, held_out = (
        read_sources(sources, split, columns, needs_surface=False, missing_ok=False)
        for split in ("train", "validation")
    )
    assert [one.source for one in train] == [0, 0, 0, 1, 1, 2]
    assert [one.source for one in held_out] == [0, 1, 0]
    assert [one.name for one in train[3:]] == [
        one.name for path in (second, third) for one in read_records(str(path), "train")
    ]
    assert {one.captions for one in train[:3]} == {("wooden, a crate",)}
    assert all(one.read_mask().any() for one in (*train, *held_out))


def test_a_key_of_columns_is_that_of_lists(monkeypatch) -> None:
    monkeypatch.setattr("texdiff.data.cache.keys._AT_ONCE", 2)
    for count in (0, 1, 3):
        records = [record(row, "/data/") for row in rows(count)]
        column = Column[tuple[str, ...]](records, "captions")
        for before, after in (
            ((), ()),
            ((b"a'\"", 1), ("b",)),
            ((b"'", b'"', b"", b"x'" * 40), (b"'x\"\\\n\0\xff" * 9,)),
        ):
            assert key_of_lists(*before, column, *after) == key_of(*before, list(column), *after)
    assert key_of_lists("a") == key_of("a")


def test_captions_are_each_there_once_by_their_first() -> None:
    given = rows(20_000)
    given = [row._replace(captions=["", "é", *row.captions[:1]] if row.row % 3 else ["b", "a"]) for row in given]
    expected = list(dict.fromkeys(["", *(text for row in given for text in row.captions)]))
    for records in (RecordTable.of(Folder("/"), given), [record(row, "/") for row in given]):
        found = distinct_captions(records)
        assert list(found) == expected
        assert [len(found), found[-1], found[2:4]] == [len(expected), expected[-1], expected[2:4]]


def test_half_a_surrogate_pair_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)not valid Unicode") as caught:
        RecordTable.of(Folder(f"{tmp_path}/"), [Row(1, "a.png", "b.png", ["broken \ud800"])])
    assert str(caught.value).startswith(f"{tmp_path}/a.png: ")


def test_of_very_many_long_captions_some_are_counted() -> None:
    textures = [(f"{n}.png", [f"{n} " + "long " * 20]) for n in range(30_000)]
    counted = []

    def count(texts: list[str]) -> list[int]:
        counted.extend(texts)
        return [76] * len(texts)

    long = find_long_captions(textures, count)
    assert long is not None
    assert len(counted) == 20_000
    assert str(long).startswith("20000 of the first 20000 captions are longer than the 75 tokens")
    assert str(find_long_captions(textures[:20], count)).startswith("20 of 20 captions are longer")
