"""RUN/report.html: everything about a run to look at, in one file that needs no network and no other file."""

import html
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.report.curves import charts, points, read_metrics
from texdiff.report.images import data_uri, meshes, timeline
from texdiff.report.tables import configuration, coverage, evaluation, machine
from texdiff.training.run.provenance import read_about

REPORT = "report.html"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(run: Path) -> Path:
    """Write RUN/report.html of what stands in the run's folder, whatever of it there is; returns its path.

    Raises InputError where the folder holds no run, or cannot be written.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run}: holds no run (no config.yaml in it); name the folder of a run")
    lines = read_metrics(run)
    config = _settings(run / "config.yaml")
    about = read_about(run)
    data = {"charts": charts(lines), "samples": timeline(run), "meshes": meshes(run)}
    parts = [_head(run, config, about, lines), _curves(data), _samples(data), _viewer(data), _first_batch(run)]
    parts += [coverage(run, about), evaluation(run), configuration(config), machine(about)]
    try:
        write_atomic(run / REPORT, _page(run.resolve().name, "\n".join(parts), data).encode(), durable=False)
    except OSError as error:
        raise InputError(f"{run / REPORT}: cannot be written ({error.strerror})") from None
    return run / REPORT


def _page(title: str, body: str, data: dict[str, Any]) -> str:
    assets = files("texdiff").joinpath("assets/report")
    css, *scripts = (assets.joinpath(name).read_text("utf-8") for name in _ASSETS)
    # Nothing in a JSON string can end the script element then.
    plain = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}: report</title>\n<style>\n{css}</style></head>\n<body>",
            body,
            f'<script type="application/json" id="data">{plain}</script>',
            *(f"<script>\n{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


_ASSETS = ("page.css", "charts.js", "viewer.js", "page.js")


def _head(run: Path, config: dict[str, Any], about: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    wanted = _of(config, "run", "max_train_steps")
    done = max((line["step"] for line in lines if "loss" in line), default=0)
    finished = (run / "pytorch_lora_weights.safetensors").is_file() or (run / "model_index.json").is_file()
    state = "finished" if finished and done == wanted else "not finished"
    kind = f"LoRA of rank {_of(config, 'lora', 'rank')}" if _of(config, "model", "train") == "lora" else "Every weight"
    dataset = about["dataset"]
    on = f", on {dataset['textures']} textures" if "textures" in dataset else ""
    line = f"{kind} for {_of(config, 'model', 'pretrained_model_name_or_path')}{on}; {state}."
    facts = [(f"{done} of {wanted}", "steps"), *_figures(lines)]
    if "coverage" in dataset:
        facts.append((f"{dataset['coverage']:.1%}", "mean coverage of a texture"))
    cards = "".join(f'<div class="fact"><b>{html.escape(a)}</b>{html.escape(b)}</div>' for a, b in facts)
    place = run.resolve()
    title = f'<p class="soft">{html.escape(place.parent.name)} /</p>\n<h1>{html.escape(place.name)}</h1>'
    return f'{title}\n<p>{html.escape(line)}</p>\n<div class="facts">{cards}</div>'


def _figures(lines: list[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    held_out = points(lines, "validation_loss")
    if held_out:
        (first, base), (last, now) = held_out[0], held_out[-1]
        yield f"{now:.4f}", f"held-out masked error at step {last}"
        if first == 0 and last > 0 and base > 0:
            yield f"{now / base - 1:+.1%}", f"against the base's own {base:.4f}"
    speeds = sorted(speed for _, speed in points(lines, "images_per_second"))
    if speeds:
        yield f"{speeds[len(speeds) // 2]:.3g}", "images per second (median)"
    if seen := points(lines, "samples_seen"):
        yield f"{max(count for _, count in seen):.0f}", "images seen"


def _curves(data: dict[str, Any]) -> str:
    return '<h2>Curves</h2>\n<div id="charts" class="charts"></div>' if data["charts"] else ""


def _samples(data: dict[str, Any]) -> str:
    if not data["samples"]["steps"]:
        return ""
    return (
        "<section><h2>Samples over time</h2>\n"
        '<p class="soft">From the same noise each time. Left, the atlas, its void dimmed; right, on the mesh.</p>\n'
        '<div class="slide"><input type="range" id="step" min="0" step="1" aria-label="training step">'
        '<output id="which"></output></div>\n<div id="samples" class="samples"></div></section>'
    )


def _viewer(data: dict[str, Any]) -> str:
    if not data["meshes"]:
        return ""
    return (
        "<h2>The newest samples on their meshes</h2>\n"
        '<p class="soft">Drag or use the arrow keys to turn, the wheel or + and - to come nearer.</p>\n'
        '<div id="choice" class="choice"></div>\n'
        '<canvas id="viewer" tabindex="0" aria-label="mesh that wears the sample"></canvas>'
    )


def _first_batch(run: Path) -> str:
    uri = data_uri(run / "first_batch.png", 1600)
    if uri is None:
        return ""
    note = "Each row: the texture as the VAE gets it, its mask, and in red what of it does not count in the loss."
    return f'<h2>First batch</h2>\n<p class="soft">{note}</p>\n<img class="first" alt="first batch" src="{uri}">'


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _of(config: dict[str, Any], section: str, name: str) -> Any:
    values = config.get(section)
    return values.get(name) if isinstance(values, dict) else None
