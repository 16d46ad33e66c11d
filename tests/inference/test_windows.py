"""Windows over an image: which there are, and what is made of what they see."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from texdiff.diffusion.process import DDPM
from texdiff.inference.windows import OVERLAP, WindowedDenoiser, window_grid

ALPHAS = torch.linspace(0.99, 0.01, 10)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    side=st.integers(4, 24),
    step=st.none() | st.integers(0, 5),
    density=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_every_wanted_cell_lies_well_inside_a_window(
    height: int, width: int, side: int, step: int | None, density: float, seed: int
) -> None:
    wanted = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < density
    grid = window_grid(wanted, side, step)
    deepest = np.full((height, width), -1.0)
    for window in grid:
        assert wanted[window.cells()].any()
        assert (window.height, window.width) == (min(side, height), min(side, width))
        rows, columns = window.cells()
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        inside = [
            np.minimum(
                np.where(part.start == 0, np.inf, np.arange(part.start, part.stop) - part.start),
                np.where(part.stop == length, np.inf, part.stop - 1 - np.arange(part.start, part.stop)),
            )
            for part, length in ((rows, height), (columns, width))
        ]
        depth = np.minimum(inside[0][:, None], inside[1][None, :])
        deepest[rows, columns] = np.maximum(deepest[rows, columns], depth)
        assert float(window.weight().min()) > 0
    needed = np.floor((side - round(side * (1 - OVERLAP)) - 1) / 2)
    assert (deepest[wanted.numpy()] >= needed).all()


def test_the_grid_moves_from_step_to_step_and_is_the_same_each_time() -> None:
    wanted = torch.ones(64, 96, dtype=torch.bool)
    grids = [window_grid(wanted, 16, step) for step in range(20)]
    assert grids == [window_grid(wanted, 16, step) for step in range(20)]
    tops = {window.top for grid in grids for window in grid}
    assert len(tops) > 30  # of 49 places
    assert window_grid(torch.zeros(64, 96, dtype=torch.bool), 16) == []
    assert len(window_grid(torch.ones(16, 16, dtype=torch.bool), 16, 3)) == 1


class Shifted(nn.Module):
    """Its prediction differs from place to place in the window, and with the time and the prompt."""

    config = type("Config", (), {"sample_size": 8})
    seen = 0

    def forward(self, sample: torch.Tensor, t: torch.Tensor, return_dict: bool, text: torch.Tensor) -> Any:
        assert not return_dict
        self.seen += 1
        place = torch.arange(sample.shape[-1]) + 10 * torch.arange(sample.shape[-2])[:, None]
        return (sample * 0.5 + place + t + text[:, :, None, None],)


def test_overlaps_are_weighted_means_and_elsewhere_the_clean_latents_stay() -> None:
    """Against a loop over cells in float64."""
    generator = torch.Generator().manual_seed(0)
    clean, sample = (torch.randn(n, 2, 20, 30, generator=generator) for n in (1, 2))
    text = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    wanted = torch.zeros(20, 30, dtype=torch.bool)
    wanted[3:9, 2:14] = True
    process = DDPM(ALPHAS, "epsilon")
    windowed = WindowedDenoiser(Shifted(), wanted, clean, process)
    windowed.begin(2)
    t = torch.tensor(4)
    for step in range(2):
        (found,) = windowed(sample, t, return_dict=False, text=text)
        total, weights = np.zeros((2, 2, 20, 30)), np.zeros((20, 30))
        for window in window_grid(wanted, 8, step):
            for row in range(8):
                for column in range(8):
                    at = window.top + row, window.left + column
                    near = [min(place + 0.5, 7.5 - place) / (8 * OVERLAP) for place in (row, column)]
                    weight = min(near[0], 1) * min(near[1], 1)
                    seen = sample[(..., *at)].double() * 0.5 + column + 10 * row + 4 + text.double()
                    total[(..., *at)] += weight * seen.numpy()
                    weights[at] += weight
        held = weights > 0
        assert held.sum() < 20 * 30
        expected = total[..., held] / weights[held]
        np.testing.assert_allclose(found[..., torch.from_numpy(held)].numpy(), expected, rtol=1e-5)
        # A predicted ε that leads back to the clean latents.
        alpha = ALPHAS[4]
        back = (sample - (1 - alpha).sqrt() * found) / alpha.sqrt()
        rest = torch.from_numpy(~held)
        torch.testing.assert_close(back[..., rest], clean.expand(2, -1, -1, -1)[..., rest], rtol=1e-4, atol=1e-4)
    assert windowed.denoiser.seen == windowed.bar.n == windowed.bar.total


def test_half_precision_is_rounded_once() -> None:
    """Where windows overlap: not at each sum."""
    sample = torch.randn(1, 2, 20, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    wanted, text = torch.ones(20, 20, dtype=torch.bool), torch.zeros(1, 1)
    windowed = WindowedDenoiser(Shifted(), wanted, sample, DDPM(ALPHAS, "epsilon"))
    windowed.begin(1)
    (found,) = windowed(sample, torch.tensor(4), return_dict=False, text=text)
    total, weights = torch.zeros(1, 2, 20, 20, dtype=torch.float64), torch.zeros(20, 20, dtype=torch.float64)
    for window in window_grid(wanted, 8, 0):
        cells = (..., *window.cells())
        total[cells] += window.weight() * Shifted()(sample[cells], 4, return_dict=False, text=text)[0].double()
        weights[window.cells()] += window.weight()
    assert found.dtype == torch.bfloat16
    assert (found == (total / weights).bfloat16()).float().mean() > 0.99


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("sampler", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_no_window_holds_stays_whatever_the_sampler(pipeline: Any, sampler: str, prediction_type: str) -> None:
    import diffusers

    from texdiff.inference.large import Refinement
    from texdiff.inference.sampler import Sampling

    if sampler.startswith("Euler") and prediction_type == "sample":
        pytest.skip("diffusers has none")
    settings = dict(pipeline.scheduler.config) | {"prediction_type": prediction_type}
    pipeline.scheduler = getattr(diffusers, sampler).from_config(settings)
    covered = np.zeros((64, 200), bool)
    covered[:, :20] = True
    image = np.random.default_rng(0).integers(0, 256, (64, 200, 3), dtype=np.uint8)
    refinement = Refinement(covered=covered, strength=0.7)
    latents = refinement.latents(pipeline, [image], ["a crate"], [0], Sampling(6, 3.0))
    clean = refinement.clean(pipeline, [image])
    torch.testing.assert_close(latents[..., 20:], clean[..., 20:], rtol=2e-2, atol=2e-2)
    assert (latents[..., :3] - clean[..., :3]).abs().mean() > 0.2
