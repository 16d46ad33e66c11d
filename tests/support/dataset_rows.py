"""The rows of a prepared dataset."""

import json
from pathlib import Path


def rows_of(dataset: Path, split: str = "train") -> dict[str, dict]:
    """By caption."""
    lines = (dataset / split / "metadata.jsonl").read_text().splitlines()
    return {row["text"]: row for row in map(json.loads, lines)}
