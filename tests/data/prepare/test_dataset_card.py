"""README.md of a dataset: who made what, whatever the number of models."""

from collections import Counter

import pytest

from texdiff.data.prepare.dataset_card import dataset_card


def card(count: int, authors: int, format: str = "imagefolder") -> str:
    """Of so many models; the first author has made all that the others have not made one each of."""
    rows = [
        {"license": "CC-BY-4.0", "author": f"author {max(0, number - count + authors):04d}", "split": "train"}
        | {"coverage": 0.5, "meshes": [f"model{number:05d}.glb"]}
        for number in range(count)
    ]
    return dataset_card("set", rows, Counter({"is empty": 3}), format)


def test_a_few_models_are_all_named() -> None:
    text = card(30, 3)
    named = ", ".join(f"model{number:05d}.glb" for number in range(28))
    assert f"| author 0000 | CC-BY-4.0 | {named} |\n" in text
    assert "| author 0002 | CC-BY-4.0 | model00029.glb |\n" in text
    assert "| CC-BY-4.0 | 30 |\n" in text
    assert "`audit.jsonl` lists every texture" in text
    assert "`audit.parquet`" in card(30, 3, "parquet")


def test_of_many_the_card_stays_readable() -> None:
    text = card(5000, 2000)
    assert len(text) < 100_000
    assert "model00099.glb, and 2901 more |\n" in text
    assert text.count("| CC-BY-4.0 | model") == 1000
    assert "| 1000 others, with fewer models | | see the rows |\n" in text


@pytest.mark.parametrize(("count", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K")])
def test_its_size_is_said(count: int, size: str) -> None:
    assert f"size_categories:\n- {size}\n" in card(count, 1)
