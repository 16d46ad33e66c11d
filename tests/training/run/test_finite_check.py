"""A loss or a gradient that is not finite stops the run before the step is taken."""

from types import SimpleNamespace

import pytest
import torch

from texdiff.errors import InputError
from texdiff.training.parallel import Parallel
from texdiff.training.run.finite_check import FiniteCheck

BAD = [float("nan"), float("inf")]
ONE = torch.tensor(1.0)


def test_a_loss_that_is_not_finite_is_told_by_its_files():
    finite = FiniteCheck(Parallel(cpu=True))
    finite.add(torch.tensor([1.0, 2.0]), ("a.png", "b.png"))
    finite.check(1, ONE)
    finite.add(torch.tensor([1.0, BAD[0]]), ("a.png", "b.png"))
    finite.add(torch.tensor([BAD[0], BAD[1]]), ("b.png", "d.png"))
    with pytest.raises(InputError, match=r"^step 2: the loss of b.png, d.png is not finite.*--run.resume never"):
        finite.check(2, torch.tensor(BAD[0]))
    finite.finish()
    finite.add(torch.full((30,), BAD[0]), [f"{i}.png" for i in range(30)])
    with pytest.raises(InputError, match=r"7.png and 22 more is not finite"):
        finite.check(3, ONE)


@pytest.mark.parametrize("bad", BAD)
def test_a_gradient_that_is_not_finite_names_the_textures_of_its_step(bad):
    finite = FiniteCheck(Parallel(cpu=True))
    finite.add(torch.ones(2), ["of the step before", "this one too"])
    finite.check(1, torch.tensor(2.0))
    finite.add(torch.ones(2), ["a.png", "b.png"])
    finite.add(torch.ones(1), ["c.png"])
    with pytest.raises(InputError, match=r"^step 2: the gradient of a\.png, b\.png, c\.png is not finite"):
        finite.check(2, torch.tensor(bad))


def test_the_ranks_ask_each_other_once_a_step():
    asked = []
    parallel = SimpleNamespace(scaler=None, sum=lambda bad: asked.append(bad) or bad)
    finite = FiniteCheck(parallel)
    for step in (1, 2):
        for _ in range(4):
            finite.add(torch.ones(2), ["a.png", "b.png"])
        finite.check(step, ONE)
    assert len(asked) == 2


def test_where_gradients_are_scaled_the_scaler_leaves_such_steps_out():
    finite = FiniteCheck(SimpleNamespace(scaler=torch.amp.GradScaler("cpu"), sum=lambda bad: bad))
    finite.add(torch.ones(1), ["a.png"])
    finite.check(1, torch.tensor(BAD[1]))
    finite.finish()
