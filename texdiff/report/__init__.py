"""RUN/report.html: everything about a run to look at, in one file that needs no network and no other file."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from texdiff.errors import InputError
from texdiff.files import write_atomic
from texdiff.report.curves import charts, points
from texdiff.report.images import data_uri, meshes, timeline
from texdiff.report.tables import coverage, evaluation, flat, readable
from texdiff.training.run import Run
from texdiff.training.run.best import held_out_losses, without_improvement


def write_report(folder: Path) -> Path:
    """Write RUN/report.html from whatever the run's folder holds; returns its path.

    Raises InputError where the folder holds no run, or cannot be written.
    """
    run = Run(folder)
    if not run.config_file.is_file():
        raise InputError(f"{folder}: not a run (no config.yaml in it); name the folder of a run")
    lines, config, about = run.metrics(), _settings(run), run.provenance()
    css, *scripts = (_own(name) for name in ("page.css", "charts.js", "viewer.js", "page.js"))
    page = _template().render(
        name=folder.resolve().name,
        parent=folder.resolve().parent.name,
        summary=_summary(run, config, about, lines),
        facts=[*_facts(run, config, about, lines)],
        data={"charts": charts(lines), "samples": timeline(run), "meshes": meshes(run)},
        first_batch=data_uri(run.first_batch_file, 1600),
        coverage=coverage(run, about),
        evaluation=evaluation(run),
        settings={name: section for name, section in config.items() if isinstance(section, dict)},
        machine=[*flat(about["machine"])],
        css=css,
        scripts=scripts,
    )
    try:
        write_atomic(run.report_file, page.encode(), durable=False)
    except OSError as error:
        raise InputError(f"{run.report_file}: cannot be written ({error.strerror})") from None
    return run.report_file


def _template() -> jinja2.Template:
    # Everything shown may come from users, so all of it is escaped.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["readable"] = readable
    return environment.from_string(_own("page.html.j2"))


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _summary(run: Run, config: dict[str, Any], about: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    patience, losses = _of(config, "run", "early_stopping_patience"), held_out_losses(lines)
    state = "not finished"
    if run.is_finished and _done(lines) == _of(config, "run", "max_train_steps"):
        state = "finished"
    elif run.is_finished and isinstance(patience, int) and 0 < patience <= without_improvement(losses):
        state = f"stopped early at step {max(losses)}: no lower held-out error in {patience} validations"
    kinds = {"lora": f"LoRA of rank {_of(config, 'lora', 'rank')}", "controlnet": "Layout net"}
    kind = kinds.get(str(_of(config, "model", "train")), "Every weight")
    dataset = about["dataset"]
    on = f", on {dataset['textures']} textures" if "textures" in dataset else ""
    return f"{kind} for {_of(config, 'model', 'pretrained_model_name_or_path')}{on}; {state}."


def _facts(
    run: Run, config: dict[str, Any], about: dict[str, Any], lines: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """Numbers to see at a glance, and what they are."""
    yield f"{_done(lines)} of {_of(config, 'run', 'max_train_steps')}", "steps"
    held_out = points(lines, "validation_loss")
    if held_out:
        (first, base), (last, now) = held_out[0], held_out[-1]
        yield f"{now:.4f}", f"held-out masked error at step {last}"
        if first == 0 and last > 0 and base > 0:
            yield f"{now / base - 1:+.1%}", f"against the base's own {base:.4f}"
    if best := run.best():
        yield f"{best['validation_loss']:.4f}", f"the lowest, at step {best['step']}; its weights are in best/"
    if gains := points(lines, "layout_gain"):
        yield f"{gains[-1][1]:.4f}", "layout gain: held-out error with another mesh's map, less that with its own"
    for name, what in (("images", "images"), ("covered_cells", "covered latent cells learnt")):
        if speeds := sorted(speed for _, speed in points(lines, f"{name}_per_second")):
            yield f"{speeds[len(speeds) // 2]:.3g}", f"{what} per second (median)"
    if seen := points(lines, "samples_seen"):
        yield f"{max(count for _, count in seen):.0f}", "images seen"
    if "coverage" in about["dataset"]:
        yield f"{about['dataset']['coverage']:.1%}", "mean coverage of a texture"


def _done(lines: list[dict[str, Any]]) -> int:
    return max((line["step"] for line in lines if "loss" in line), default=0)


def _settings(run: Run) -> dict[str, Any]:
    """Its settings; none where they are damaged."""
    try:
        return run.settings()
    except InputError:
        return {}


def _of(config: dict[str, Any], section: str, name: str) -> Any:
    values = config.get(section)
    return values.get(name) if isinstance(values, dict) else None
