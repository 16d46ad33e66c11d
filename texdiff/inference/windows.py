"""A denoiser that sees an image too large for it through overlapping windows of its own size, fused at every step.

MultiDiffusion (Bar-Tal et al. 2023): where windows overlap, the prediction is their weighted mean. Here the grid of
windows moves from step to step, so that no border stays where it was, and windows without anything wanted are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.process import Process

OVERLAP = 0.25
"""Share of a window's side over which it fades into the next."""

Control = Callable[..., dict[str, Any]]
"""Of a layout net: from a window's noisy latents, the time, the window, the shares of the steps that are done before
this one and after it, and the denoiser's own arguments to more arguments."""


@dataclass(frozen=True)
class Window:
    """A rectangle of latent cells."""

    top: int
    left: int
    height: int
    width: int

    def cells(self, factor: int = 1) -> tuple[slice, slice]:
        """Its rows and columns; those of its pixels where a cell has `factor` of them a side."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        return rows, slice(self.left * factor, (self.left + self.width) * factor)

    def weight(self, factor: int = 1) -> Tensor:
        """Weight [height, width] of its cells or pixels: 1, falling towards its edges, and above 0 on them."""
        rows, columns = (_fade(length * factor) for length in (self.height, self.width))
        return rows[:, None] * columns[None, :]


def _fade(length: int) -> Tensor:
    place = torch.arange(length) + 0.5
    return (torch.minimum(place, length - place) / (OVERLAP * length)).clamp(max=1.0)


def window_grid(wanted: Tensor, side: int, step: int | None = None) -> list[Window]:
    """The windows of `side` cells, or as large as the image where that is less, that hold any cell of `wanted`, bool
    [h, w]. They overlap by OVERLAP or more, so that wanted cells lie at least half of that inside one of them, but for
    those at the image's edge. With a step's number the grid lies at a place that is drawn for it.
    """
    places = []
    sides = [min(side, length) for length in wanted.shape]
    for axis, (length, own) in enumerate(zip(wanted.shape, sides, strict=True)):
        stride = max(1, round(own * (1 - OVERLAP)))
        shift = 0
        if step is not None and length > own:
            shift = int(torch.randint(stride, (1,), generator=keyed_generator(step, "windows", axis)))
        starts = range(-shift, length - own + stride, stride)
        places.append(sorted({min(max(start, 0), length - own) for start in starts}))
    windows = [Window(top, left, *sides) for top, left in product(*places)]
    return [window for window in windows if bool(wanted[window.cells()].any())]


class WindowedDenoiser(nn.Module):
    """Takes the place of a diffusers denoiser in an img2img pipeline.

    Args:
        denoiser: whose `config.sample_size` is the windows' side in latent cells.
        wanted: bool [h, w], the latent cells that matter.
        clean: latents [B, C, h, w]; cells that no window holds become these again.
        process: of the denoiser.
        control: of a layout net, where there is one.
    """

    def __init__(
        self, denoiser: Any, wanted: Tensor, clean: Tensor, process: Process, control: Control | None = None
    ) -> None:
        super().__init__()
        self.denoiser, self.wanted, self.clean, self.process, self.control = denoiser, wanted, clean, process, control
        self.grids: list[list[Window]] = []
        self.steps = 0
        self.bar = tqdm(disable=True)

    def begin(self, steps: int) -> None:
        """Get ready for as many calls, and show how far they are."""
        self.steps = steps
        side = self.denoiser.config.sample_size
        self.grids = [window_grid(self.wanted, side, step) for step in range(steps)]
        self.bar = tqdm(total=sum(map(len, self.grids)), unit="window", desc="refining")

    def __getattr__(self, name: str) -> Any:
        """Everything else that a pipeline asks its denoiser for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("denoiser"), name)

    def forward(self, sample: Tensor, timestep: Tensor, return_dict: bool = True, **arguments: Any) -> tuple[Tensor]:
        """The prediction [B, C, h, w] for noisy latents [B, C, h, w], in a tuple as pipelines take it."""
        step = self.steps - len(self.grids)
        done = step / self.steps, (step + 1) / self.steps
        # In float32, also where the denoiser is not: sums of up to four predictions with weights that differ.
        total = torch.zeros_like(sample, dtype=torch.float32)
        weights = torch.zeros_like(total[:1, :1])
        for window in self.grids.pop(0):
            rows, columns = window.cells()
            part = sample[..., rows, columns]
            more = self.control(part, timestep, window, done, **arguments) if self.control else {}
            predicted = self.denoiser(part, timestep, return_dict=False, **arguments, **more)[0]
            weight = window.weight().to(total)
            total[..., rows, columns] += weight * predicted
            weights[..., rows, columns] += weight
            self.bar.update()
        if not self.grids:
            self.bar.close()
        staying = self._staying(sample.float(), timestep)
        return (torch.where(weights > 0, total / weights.clamp(min=1e-6), staying).to(sample.dtype),)

    def _staying(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The prediction that leads back to the clean latents."""
        t = timestep.round().long().expand(len(sample)).cpu()
        clean = self.clean.to(sample).repeat(len(sample) // len(self.clean), 1, 1, 1)
        zero, one = torch.zeros_like(sample), torch.ones_like(sample)
        signal, spread = self.process.add_noise(one, zero, t), self.process.add_noise(zero, one, t)
        noise = (sample - signal * clean) / spread
        return self.process.target(clean, noise, t)
