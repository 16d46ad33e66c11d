"""What the report says in words and numbers, as HTML. Everything in it may come from users, so all is escaped."""

import html
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from texdiff.evaluation.table import table as evaluation_table


def coverage(run: Path, about: dict[str, Any]) -> str:
    """What of the textures is mapped, and what becomes of the masks at latent size."""
    rows: list[tuple[str, Any]] = []
    if "coverage" in about["dataset"]:
        rows.append(("mean coverage of a texture", _share(about["dataset"]["coverage"])))
    try:
        masks = json.loads((run / "masks.json").read_text("utf-8"))
        rows.append(("covered texels that do not count at latent size", _share(masks["dropped"])))
        rows.append(("of what counts there, not covered", _share(masks["void"])))
        rows += [("warning", masks["warning"])] if masks["warning"] else []
        worst = [f"{Path(name).stem} {_share(share)}" for name, share in masks["worst"][:5]]
        rows += [("textures that lose most", worst)] if worst else []
    except (OSError, ValueError, LookupError, TypeError):  # none, or none that this version writes
        pass
    return f"<h2>Coverage</h2>\n{_table(rows)}" if rows else ""


def _share(value: float) -> str:
    return f"{value:.1%}"


def evaluation(run: Path) -> str:
    """What `texdiff evaluate` found, where it was asked."""
    try:
        text = evaluation_table(json.loads((run / "evaluation.json").read_text("utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or none that this version writes
        return ""
    return f"<h2>Evaluation</h2>\n<pre>{html.escape(text)}</pre>"


def configuration(config: dict[str, Any]) -> str:
    """Every setting, by section."""
    sections = [
        f"<section><h3>{html.escape(str(name))}</h3>{_table(section.items())}</section>"
        for name, section in config.items()
        if isinstance(section, dict)
    ]
    return f'<h2>Configuration</h2>\n<div class="settings">{"".join(sections)}</div>' if sections else ""


def machine(about: dict[str, Any]) -> str:
    """What the run ran on."""
    rows = _flat(about["machine"])
    return f"<h2>Machine</h2>\n{_table(rows)}" if rows else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = (f"<tr><th>{html.escape(_words(str(k)))}</th><td>{html.escape(_shown(v))}</td></tr>" for k, v in rows)
    return f"<table>{''.join(cells)}</table>"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values as rows, their names joined."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name} ")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
