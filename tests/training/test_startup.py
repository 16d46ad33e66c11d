"""What is said of the masks before a run starts."""

from types import SimpleNamespace

import pytest
import torch

from texdiff.training.startup import measure_masks


def textures_of(sums, variation):
    columns = dict(zip(("target", "outside", "covered", "dropped", "void"), torch.tensor(sums).T, strict=True))
    records = [SimpleNamespace(name=f"{i}.png") for i in range(len(sums))]
    return SimpleNamespace(sums=columns, variation=torch.tensor(variation), records=records, scales=1)


def test_the_mask_report_adds_up():
    sums = [[10.0, 0.0, 8.0, 2.0, 4.0], [20.0, 0.0, 30.0, 6.0, 1.0], [5.0, 0.0, 2.0, 0.0, 3.0]]
    report = measure_masks(textures_of(sums, [[0.5, 0.1], [float("nan"), float("nan")], [0.2, 0.3]]))
    assert report.dropped == pytest.approx(8 / 40)
    assert report.void == pytest.approx(8 / 35)
    assert report.worst == (("0.png", 0.25), ("1.png", pytest.approx(0.2)))
    assert (report.compared, report.inverted, report.warning) == (2, 1, None)


def test_inverted_masks_are_said_in_one_line():
    right, wrong = [0.6, 0.1], [0.1, 0.6]
    sums = [[1.0, 0.0, 1.0, 0.0, 0.0]] * 9
    report = measure_masks(textures_of(sums, [wrong] * 6 + [right] * 3))
    assert report.warning.startswith("warning: the masks look inverted: 6 of 9 textures vary more outside")
    assert measure_masks(textures_of(sums, [wrong] * 5 + [right] * 4)).warning is None
