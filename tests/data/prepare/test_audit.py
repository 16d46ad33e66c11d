"""audit.html of many textures: a sample of those that are kept, and what is set aside in groups."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.audit import sample
from texdiff.data.prepare.audit.page import write_page
from texdiff.data.prepare.audit.reasons import count_reasons
from texdiff.data.prepare.audit.sample import Sample
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.measures import measure

PICTURE = f"data:image/webp;base64,{'A' * 4000}"


def audit_rows(count: int) -> list[dict]:
    """Rows as of so many textures; every seventh set aside, for one of five reasons."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        reason = (
            None if number % 7 else f"{('empty', 'plain', 'broken', 'odd', 'small')[number // 7 % 5]} (at {number})"
        )
        row = {"kept": reason is None, "split": None, "reason": reason, "source": f"set/{number}.glb", "meshes": []}
        row |= {"texture": f"<b>{number}", "asset_id": f"id{number}"}
        if reason is None or "broken" not in reason:
            row |= {
                "content": rng.bytes(32).hex(),
                "coverage": float(rng.random()),
                "islands_lost": int(number % 10 == 3),
            }
        rows.append(row)
    return rows


def collected(rows: list[dict]) -> Sample[int]:
    found = Sample[int]()
    for number, row in enumerate(rows):
        found.add(row, number)
    return found


def test_the_sample_has_the_worst_by_each_measure_and_the_rest_at_random() -> None:
    rows = audit_rows(5000)
    found = list(collected(rows).rows())
    kept = [row for row in rows if row["kept"]]
    assert len(found) == 300
    assert len({row["content"] for row, _ in found}) == 300
    assert all(rows[number].items() <= row.items() for row, number in found)

    def shown_for(what: str) -> list[str]:
        return sorted(row["content"] for row, _ in found if what in row["shown_for"].split(", "))

    by_coverage = sorted(kept, key=lambda row: row["coverage"])
    assert shown_for("lowest coverage") == sorted(row["content"] for row in by_coverage[:8])
    assert shown_for("highest coverage") == sorted(row["content"] for row in by_coverage[-8:])
    losing = sorted(row["content"] for row in kept if row["islands_lost"])
    assert shown_for("highest islands lost") == losing[:8]
    assert [row["content"] for row, _ in found if row["shown_for"] == "at random"] == [
        content
        for content in sorted(row["content"] for row in kept)
        if content not in {row["content"] for row, _ in found if row["shown_for"] != "at random"}
    ][: 300 - 24]
    assert found == list(collected(rows).rows())


def test_what_is_set_aside_is_counted_by_reason_with_all_names() -> None:
    rows = audit_rows(5000)
    groups = collected(rows).groups
    assert set(groups) == {"empty", "plain", "broken", "odd", "small"}
    for reason, group in groups.items():
        mine = [row for row in rows if row["reason"] and row["reason"].startswith(reason)]
        assert group.count == len(mine)
        assert group.names == [f"{row['source']}: {row['texture']}" for row in mine]
        contents = sorted(row["content"] for row in mine if "content" in row)
        assert [row["content"] for _, row, _ in group.pictures.found] == contents[:8]


def test_the_pages_columns_say_what_they_mean(draw: Callable, tmp_path: Path) -> None:
    texture = draw(1)
    triangles = np.array([[[0, 0], [1, 0], [0, 1]]], float)
    measured = measure(texture, coverage_mask(triangles, texture.shape[:2]), triangles, np.ones(1))
    row = {"kept": True, "source": "a.glb", "texture": "a", "content": "a", "reason": None} | measured
    write_page(tmp_path / "audit.html", "one", "all", list(row), collected([row]), lambda _: [PICTURE] * 3)
    page = (tmp_path / "audit.html").read_text()
    heads = set(re.findall(r'<th title="[^"]+">([^<]+)</th>', page))
    plain = {"height", "width", "square", "islands", "triangles", "udim", "tiles", "texture sha256"}
    plain |= {f"uv {end} {axis}" for end in ("min", "max") for axis in "uv"}
    assert {name.replace("_", " ") for name in measured} - heads - plain == set()


def test_reasons_of_a_kind_are_counted_in_the_words_that_they_share() -> None:
    """What a summary says of many is as clear as what is said of one; what differs between them is left out."""
    squeezed = "is 1000x188 texels; beyond 4:1 a square image squeezes it too much"
    assert count_reasons(
        [
            "is 1000x63 texels; a side below 64 holds too little to learn from",
            "is 32x32 texels; a side below 64 holds too little to learn from",
            squeezed,
            "uses a.jpg, but 512 of its triangles have no UV coordinates in the file",
            "uses b.jpg, but 64 of its triangles have no UV coordinates in the file",
            "is plain where the UV map covers it (contrast 0.0 of 255)",
            "is plain where the UV map covers it (contrast 1.5 of 255)",
            "cup.txt: not readable as UTF-8 text (byte 3); save it as UTF-8",
        ]
    ) == {
        "is … texels; a side below 64 holds too little to learn from": 2,
        squeezed: 1,
        "uses …, but … of its triangles have no UV coordinates in the file": 2,
        "is plain where the UV map covers it (contrast … of 255)": 2,
        "cup.txt: not readable as UTF-8 text (byte 3); save it as UTF-8": 1,
    }


def test_the_page_stays_small_whatever_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = audit_rows(6_000)
    for number, row in enumerate(rows):
        if row["reason"]:
            row["reason"] = f"{'abcdefghij'[number % 10]}{'klmnopqrst'[number // 10 % 10]} is wrong"
    columns = list({key: None for row in rows for key in row})
    monkeypatch.setattr(sample, "_LETTERS", 100)
    write_page(tmp_path / "audit.html", "many", "all", columns, collected(rows), lambda _: [PICTURE] * 3)
    page = (tmp_path / "audit.html").read_text()
    assert len(page) < 300 * 3 * 4500 + 61 * (8 * 2 * 4500 + 1000)
    assert page.count("<h3>") == 61
    counts = [int(count) for count in re.findall(r"<h3>(\d+) &times;", page)]
    assert sum(counts) == 6_000 // 7 + 1
    assert counts == sorted(counts, reverse=True)
    assert "&times; other reasons</h3>" in page
    assert "<b>" not in page
    assert re.search(r"the first \d of \d+; audit.jsonl has all", page)


@pytest.mark.slow
def test_prepare_shows_groups_once_there_are_many(
    write_mesh: Callable, draw: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_mesh(tmp_path / "in" / f"cup{number}.glb", draw(number))
    write_mesh(tmp_path / "in" / "plain.glb", np.full((64, 64, 3), 7, np.uint8))
    (tmp_path / "in" / "empty.glb").write_bytes(b"")
    monkeypatch.setattr(sample, "_ALL", 4)
    prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1)
    page = (tmp_path / "out" / "audit.html").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out" / "audit.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert "Kept: 3, of which a sample is shown" in page
    assert page.count("<tr class=") == 3
    assert page.count("<figure>") == 1  # of the plain one: the other has no texture
    assert page.count("data:image/webp") == 4
    for row in rows:
        assert row["kept"] or f"<h3>1 &times; {row['reason']}</h3>" in page
