"""The state of optimisers and the like as a file: comes back as it was, and carries no code."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.training.run.state_file import read_state, write_state

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = [torch.zeros(()), torch.arange(6).view(2, 3), torch.ones(0), torch.tensor([1.5]).bfloat16()]
leaves |= st.sampled_from(tensors).map(torch.clone)
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


@settings(deadline=None, max_examples=60)
@given(state=st.dictionaries(st.text() | st.integers(), nested))
def test_nested_state_comes_back_as_it_was(state):
    with tempfile.NamedTemporaryFile() as file:
        write_state(state, Path(file.name))
        assert equal(state, read_state(Path(file.name)))


def test_what_could_carry_code_is_not_kept(tmp_path):
    with pytest.raises(TypeError, match=r"\.a\.0: a function cannot be kept"):
        write_state({"a": [lambda: None]}, tmp_path / "state")


def test_tensors_that_share_their_memory_are_kept_each(tmp_path):
    table = torch.arange(6.0)
    write_state({"one": table, "same": table, "part": table[2:4]}, tmp_path / "state")
    read = read_state(tmp_path / "state")
    assert torch.equal(read["one"], table)
    assert torch.equal(read["same"], table)
    assert torch.equal(read["part"], table[2:4])
