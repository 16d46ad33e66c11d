"""A gradient that is not finite stops the run before the step is taken."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from texdiff.errors import InputError
from texdiff.training.run.finite_check import LossGuard


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_names_the_textures_of_its_step(bad):
    guard = LossGuard(Accelerator(cpu=True))
    guard.check(1, torch.ones(2), ["of the step before", "this one too"])
    guard.check_gradient(1, torch.tensor(2.0))
    guard.check(2, torch.ones(2), ["a.png", "b.png"])
    guard.check(2, torch.ones(1), ["c.png"])
    with pytest.raises(InputError, match=r"^step 2: the gradient of a\.png, b\.png, c\.png is not finite"):
        guard.check_gradient(2, torch.tensor(bad))


def test_where_gradients_are_scaled_the_scaler_leaves_such_steps_out():
    guard = LossGuard(SimpleNamespace(scaler=torch.amp.GradScaler("cpu"), num_processes=1))
    guard.check(1, torch.ones(1), ["a.png"])
    guard.check_gradient(1, torch.tensor(float("inf")))
    guard.finish()
