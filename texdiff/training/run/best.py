"""Which step has the best held-out loss, and since when there was none better.

Both follow from the losses alone, step 0 left out, which is the base's own. So a run that was stopped or killed, and
has the lines of metrics.jsonl up to its checkpoint, comes to the same as one that was not.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def held_out_losses(lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Steps -> held-out loss, of the lines of metrics.jsonl that have one."""
    found = [(line["step"], line.get("validation_loss")) for line in lines]
    return {step: float(loss) for step, loss in found if isinstance(loss, int | float)}


def best_step(losses: Mapping[int, float]) -> int | None:
    """The step of the lowest loss, the earliest of several; None where none is known."""
    known = [(loss, step) for step, loss in losses.items() if step > 0 and math.isfinite(loss)]
    return min(known)[1] if known else None


def without_improvement(losses: Mapping[int, float]) -> int:
    """How many validations there were after the best."""
    best = best_step(losses) or 0
    return sum(step > best for step in losses)
