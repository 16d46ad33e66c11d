"""A wider layer that begins as a copy of a narrower one computes the same."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are no part of the package

from benchmarks.nano.widen import channel_of, widened


def test_function_stays():
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 5, 3)
    x = torch.randn(2, 3, 12, 12)
    wider, reader = torch.nn.Conv2d(3, 24, 3), torch.nn.Conv2d(24, 5, 3)
    wider.load_state_dict({k: widened(v, wider.state_dict()[k].shape, 8) for k, v in first.state_dict().items()})
    reader.load_state_dict({k: widened(v, reader.state_dict()[k].shape, 8) for k, v in second.state_dict().items()})
    torch.testing.assert_close(reader(wider(x)), second(first(x)))
    assert not torch.equal(reader.weight[:, 0], reader.weight[:, 2])  # a channel and its copy are not read alike


def test_copies_stay_in_their_group():
    assert channel_of(96, 120, 8).view(8, 15).floor_divide(12).tolist() == [[group] * 15 for group in range(8)]
