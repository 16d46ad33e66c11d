"""The metrics of a run as curves: read from metrics.jsonl, smoothed, thinned out to what a screen shows."""

import math
from typing import Any

from texdiff.training.run.metrics_log import RunningMean

_POINTS = 500  # of a curve at most
_SMOOTHED = 0.1  # of the run's steps: what the running mean looks back on, or at least _STEPS
_STEPS = 20

Curve = dict[str, Any]
Points = list[tuple[int, float]]


def charts(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page draws: charts with title, note, curves, and the base's own value where there is one."""
    training = [line for line in lines if "loss" in line]
    held_out = [line for line in lines if "validation_loss" in line]
    window = max(_STEPS, round(_SMOOTHED * len(training)))
    note = f"Running mean over about {window} steps; behind it, every step's own loss."
    loss = points(training, "loss")
    errors = [
        _curve(name.removeprefix("error_").replace("_", " "), smooth(points(training, name), window))
        for name in _names(training, "error_")
    ]
    curves = [_curve("each step", loss, faint=True), _curve("loss", smooth(loss, window)), *errors]
    found: list[dict[str, Any]] = [{"title": "Training error", "note": note, "curves": curves, "wide": True}]
    gains = _names(held_out, "layout_gain")
    apart = ("step", "samples_seen", *gains)
    names = [n for n in _names(held_out, "") if n not in apart and not n.startswith("void_")]
    curves = [_curve(_words(name), points(held_out, name), dots=True) for name in names]
    base = next((value for step, value in points(held_out, "validation_loss") if step == 0), None)
    note = "On textures that are not trained on, with fixed noise. Dashed: the base itself, before the first step."
    found.append({"title": "Held-out masked error", "note": note, "curves": curves, "base": base, "wide": True})
    found.append(_void(lines))
    note = "Held-out error with the map of another mesh, less that with its own: noise and times being the same."
    curves = [_curve(_gain_words(name), points(held_out, name), dots=True) for name in gains]
    found.append({"title": "Layout gain", "note": note, "curves": curves, "wide": True})
    for name, title, note in (
        ("coverage", "Coverage of each batch", "Share of the latent texels that count in the loss."),
        ("images_per_second", "Images per second", "Without validation and checkpoints."),
        ("covered_cells_per_second", "Covered cells per second", "Latent cells with covered texels that were learnt."),
        ("learning_rate", "Learning rate", ""),
        ("grad_norm", "Gradient norm", "Before clipping."),
    ):
        found.append({"title": title, "note": note, "curves": [_curve(title, points(training, name))]})
    found = [chart | {"curves": [curve for curve in chart["curves"] if curve["points"]]} for chart in found]
    return [chart for chart in found if chart["curves"]]


def _void(lines: list[dict[str, Any]]) -> dict[str, Any]:
    note = (
        "Share of the samples' covered texels that shows the flat colour of the training textures' voids. Dashed: that "
    )
    shown = (("on the texture", "void_on_surface"), ("by the mesh's surface", "void_on_mesh"))
    curves = [_curve(name, points(lines, key), dots=True) for name, key in shown]
    real = next((value for _, value in points(lines, "void_on_surface_real")), None)
    note += "of the real textures."
    return {"title": "Void on the surface", "note": note, "curves": curves, "base": real, "wide": True}


def smooth(found: Points, window: int) -> Points:
    """The same points with their running mean."""
    mean = RunningMean(window)
    return [(x, mean.add(y)) for x, y in found]


def points(lines: list[dict[str, Any]], name: str) -> Points:
    """(step, value) where the metric is a finite number."""
    values = [(line["step"], line.get(name)) for line in lines]
    return [(step, float(v)) for step, v in values if isinstance(v, int | float) and math.isfinite(v)]


def _names(lines: list[dict[str, Any]], prefix: str) -> list[str]:
    """Names of metrics in the order in which they first appear."""
    return list(dict.fromkeys(name for line in lines for name in line if name.startswith(prefix)))


def _words(name: str) -> str:
    return name.removeprefix("validation_").removeprefix("error_").replace("_", " ")


def _gain_words(name: str) -> str:
    time = name.removeprefix("layout_gain").removeprefix("_t")
    return f"timestep {time}" if time else "all timesteps"


def _curve(name: str, found: Points, **style: bool) -> Curve:
    every = max(1, math.ceil(len(found) / _POINTS))
    thin = found[::every] + (found[-1:] if found and (len(found) - 1) % every else [])
    return {"name": name, "points": [(x, float(f"{y:.5g}")) for x, y in thin], **style}
