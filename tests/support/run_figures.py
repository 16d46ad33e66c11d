"""What tests read of runs: figures of metrics.jsonl, and how far tensors lie apart."""

import json
from pathlib import Path

import torch


def figures(run: Path, name: str) -> list[float]:
    """The figure of that name, of every line that has it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line[name] for line in lines if name in line]


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all tensors together, over the size of the first."""
    assert one.keys() == other.keys()
    difference = sum((one[k].double() - other[k].double()).square().sum() for k in one)
    return float((difference / sum(t.double().square().sum() for t in one.values())) ** 0.5)
