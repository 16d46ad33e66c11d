"""Layout gain of a run: by how much the held-out error is larger with the map of another mesh than with its own."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit

from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.records import read_records
from texdiff.models.family import Family
from texdiff.training.validation import HeldOutErrors, measure_held_out

_BATCH = 4


@dataclass(frozen=True)
class _Alone:
    """One process, as encoding a dataset has to know it."""

    device: torch.device
    is_main: bool = True

    def share_of(self, folder: Path | str) -> slice:
        """All of it."""
        return slice(None)

    def agree(self, found: str, what: str) -> None:
        """With nobody."""

    def wait(self) -> None:
        """For nobody."""


def layout_gain(pipeline: Any, family: Family, settings: dict[str, Any], dataset: str) -> dict[str, Any] | None:
    """The gain with its 95 % interval over the dataset's held-out textures, of the pipeline's U-Net under its net, on
    the textures' own noise; and the same by timestep. None where no two textures have different maps.

    `settings` are the run's; an interval is of `ratio_interval`.
    """
    data, mask = _section(DataConfig, settings["data"]), _section(MaskConfig, settings["mask"])
    columns = (data.image_column, data.mask_column, data.caption_column)
    maps = settings["layout"]["maps"]
    layout_column = data.layout_column if maps == "position" else None
    for split in ("validation", "train"):
        if records := read_records(dataset, split, *columns, layout_column=layout_column):
            break
    unet, net = pipeline.unet, pipeline.controlnet
    textures, _ = encode_dataset(data, mask, family, records, [], _Alone(unet.device), maps)
    with torch.no_grad():
        errors = measure_held_out(
            lambda noisy, t, conditioning: family.predict(unet, noisy, t, conditioning, net),
            family,
            textures,
            settings["run"]["seed"],
            unet.device,
            torch.float32,
            _BATCH,
        )
    pipeline.to(unet.device)  # encoding takes the encoders away
    return gain_figures(errors)


def gain_figures(errors: HeldOutErrors) -> dict[str, Any] | None:
    """As `layout_gain`, of the errors."""
    if errors.other is None:
        return None
    gains, cells = (errors.other - errors.own).double().numpy(), errors.cells.double().numpy()

    def figures(difference: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(("gain", "low", "high"), ratio_interval(difference, cells), strict=True))

    times = errors.times.tolist()
    return {
        "held_out": len(cells),
        **figures(gains.mean(axis=1)),
        "by_timestep": [{"timestep": t, **figures(gains[:, i])} for i, t in enumerate(times)],
    }


def ratio_interval(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[float, float, float]:
    """Σ sums / Σ sizes of n samples [n] each, and its 95 % interval by Student's t: the ratio estimator of survey
    sampling (Cochran, Sampling Techniques, 1977, section 6.4). With equal sizes it is that of a mean."""
    n, total = len(sums), sizes.sum()
    ratio = float(sums.sum() / total)
    if n < 2:
        return ratio, float("nan"), float("nan")
    spread = float(np.sqrt(n / (n - 1) * np.square(sums - ratio * sizes).sum()) / total)
    margin = float(stdtrit(n - 1, 0.975)) * spread
    return ratio, ratio - margin, ratio + margin


def _section(kind: type[Any], values: dict[str, Any]) -> Any:
    """A section of a run's settings, with the defaults of keys that it does not have."""
    known = {one.name for one in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})
