"""What the report says in words and numbers: rows of a name and a value each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from texdiff.evaluation.table import table as evaluation_table
from texdiff.training.run import Run

Rows = list[tuple[str, object]]


def coverage(run: Run, about: Mapping[str, Any]) -> Rows:
    """How much of the textures is mapped, and what becomes of the masks at latent size."""
    rows: Rows = []
    if "coverage" in about["dataset"]:
        rows.append(("mean coverage of a texture", _share(about["dataset"]["coverage"])))
    try:
        masks = run.masks()
        rows.append(("covered texels that do not count at latent size", _share(masks["dropped"])))
        rows.append(("of what counts there, not covered", _share(masks["void"])))
        rows += [("warning", masks["warning"])] if masks["warning"] else []
        worst = [f"{Path(name).stem} {_share(share)}" for name, share in masks["worst"][:5]]
        rows += [("textures that lose most", worst)] if worst else []
        rows.append(("textures with a void of one colour", _share(masks["voids"]["flat"])))
    except (ValueError, LookupError, TypeError):  # none, or not one that this version writes
        pass
    return rows


def evaluation(run: Run) -> str:
    """What `texdiff evaluate` found; nothing where it was not run."""
    try:
        return evaluation_table(run.evaluation())
    except (ValueError, LookupError, TypeError, AttributeError):  # none, or not one that this version writes
        return ""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested values as rows, their names joined."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", value


def readable(value: object) -> str:
    """A setting or a measurement as a reader wants it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or "none"
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return f"{value:.1%}"
