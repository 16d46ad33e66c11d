"""Write docs/settings.md, every key of a run with its type, default and meaning, from the docstrings that --help shows.

    python docs/settings_page.py

tests/test_docs.py checks that the page is what this would write.
"""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import docstring_parser

from texdiff import bounds
from texdiff.config import SourceConfig, TrainingConfig

HEAD = """# Settings

Made by `python docs/settings_page.py` from the settings themselves; `python train_texture.py --help` says the same.

Defaults, then `--config` files in their order, then flags: the later wins, and flags win over files. In a file a key
stands in its section (`lora:` and below it `  rank: 16`), on the command line with a dot (`--lora.rank 16`). An unknown
key, a wrong type or an impossible combination is one line and exit code 2, before torch is loaded. (With accelerate's
launcher a traceback of its own follows; `accelerate launch -q` and `texdiff train` leave it out.) `--dry_run` says what
would be done, and stops.

Precision and the number of processes are no settings: `texdiff train` takes `--mixed_precision` and `--num_processes`,
and `accelerate launch` its own configuration.

| file | what for |
|---|---|
"""
HEADER = "| key | type | default | |\n|---|---|---|---|"
SOURCE = "A source in `data.dataset`"


def page() -> str:
    """The text of docs/settings.md."""
    files = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
    lines = [f"| `configs/{file.name}` | {_cell(_first_sentence(file))} |" for file in files]
    sections = [(f"`{field.name}`", field.type) for field in fields(TrainingConfig)]
    for title, kind in [*sections, (SOURCE, SourceConfig)]:
        said = docstring_parser.parse_from_object(kind)
        lines += ["", f"## {title}", "", said.short_description or "", "", HEADER]
        meanings = {parameter.arg_name: parameter.description for parameter in said.params}
        types = {parameter.arg_name: parameter.type_name for parameter in said.params}
        for field in fields(kind):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            shown = "required" if default is MISSING else f"`{_yaml(default)}`"
            row = (f"`{field.name}`", _type(types[field.name]), shown, meanings[field.name])
            lines.append("| " + " | ".join(map(_cell, row)) + " |")
    return HEAD + "\n".join(lines) + "\n"


def _first_sentence(file: Path) -> str:
    comments = [line.lstrip("# ") for line in file.read_text("utf-8").splitlines() if line.startswith("#")]
    return re.split(r"(?<=\.) (?=[A-Z])", " ".join(comments))[0]


def _type(name: str) -> str:
    """A type as a reader of settings would write it, its bounds in words."""
    for alias in re.findall(r"[A-Z]\w+", name):
        if hasattr(bounds, alias) and hasattr(getattr(bounds, alias), "__metadata__"):
            kind = getattr(bounds, alias)
            base = getattr(kind.__origin__, "__name__", "")
            name = name.replace(alias, f"{base}, {kind.__metadata__[0]}".replace("tuple,", "list of"))
    name = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace(", ", " | "), name)
    name = name.replace("tuple[SourceConfig, ...]", "list of sources").replace("tuple[str, ...]", "list")
    return name.replace('"', "").replace("'", "")


def _yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", r"\|")


if __name__ == "__main__":
    (Path(__file__).parent / "settings.md").write_text(page(), "utf-8")
