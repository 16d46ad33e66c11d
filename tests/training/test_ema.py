import copy

import torch
from diffusers.training_utils import EMAModel

from texdiff.config import OptimConfig
from texdiff.training.ema import Ema


def test_the_average_is_the_closed_form_and_comes_back_from_its_state():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    values = [1.0, -2.0, 5.0, 0.5, 3.0]
    ema, expected = Ema(parameters, 0.35), 0.0
    for number, value in enumerate(values, start=1):
        for parameter in parameters:
            parameter.data.fill_(value)
        ema.step()
        decay = min((1 + number - 1) / (10 + number - 1), 0.35) if number > 1 else 0.0
        expected = decay * expected + (1 - decay) * value
        if number == 3:
            state = copy.deepcopy(ema.state_dict())
    with ema.averaged():
        assert all(torch.allclose(p, torch.tensor(expected)) for p in parameters)
    assert all((p == values[-1]).all() for p in parameters)

    again = Ema(parameters, 0.35)
    again.load_state_dict(state)
    for value in values[3:]:
        for parameter in parameters:
            parameter.data.fill_(value)
        again.step()
    for one, other in zip(again.model.shadow_params, ema.model.shadow_params, strict=True):
        assert torch.equal(one, other)
    assert isinstance(ema.model, EMAModel)


def test_without_an_average_nothing_happens():
    parameter = torch.nn.Parameter(torch.ones(3))
    ema = Ema([parameter], None)
    ema.step()
    ema.load_state_dict(ema.state_dict())
    with ema.averaged():
        assert (parameter == 1).all()
    assert not OptimConfig().use_ema
