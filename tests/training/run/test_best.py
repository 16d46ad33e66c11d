"""The best step follows from the held-out losses, as a loop that looks at one after the other has it."""

import math

from hypothesis import given
from hypothesis import strategies as st

from texdiff.training.run.best import best_step, held_out_losses, without_improvement


@given(st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.3, math.nan, math.inf]), max_size=12), st.integers(1, 4))
def test_best_and_patience_are_those_of_a_loop(losses, patience):
    lowest, best, waited, stopped = math.inf, None, 0, None
    by_step = {0: 0.05}  # the base's own, which no step has to be better than
    for step, loss in enumerate(losses, 1):
        by_step[step] = loss
        if loss < lowest:
            lowest, best, waited = loss, step, 0
        else:
            waited += 1
        assert best_step(by_step) == best
        assert without_improvement(by_step) == waited
        if waited == patience and stopped is None:
            stopped = step
    until = [{step: by_step[step] for step in range(last + 1)} for last in range(len(by_step))]
    assert next((max(some) for some in until if without_improvement(some) >= patience), None) == stopped


def test_lines_without_a_held_out_loss_are_left_out():
    lines = [{"step": 1, "loss": 0.5}, {"step": 1, "validation_loss": 0.25}, {"step": 2, "validation_loss": None}]
    assert held_out_losses(lines) == {1: 0.25}
    assert best_step({}) is None
    assert best_step({0: 0.1}) is None
