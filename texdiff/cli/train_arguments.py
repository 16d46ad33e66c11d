"""How a training run is told its settings: defaults < YAML files < command line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from texdiff.bounds import in_words
from texdiff.cli.settings_file import read_settings_file
from texdiff.config import RENAMED, TrainingConfig
from texdiff.config.data import check_sources
from texdiff.errors import InputError, one_line, training_program
from texdiff.storage import ConnectionBroken

_PATHS = ("data.dataset", "data.cache_dir", "lora.init", "run.output_dir")  # others are taken with a ~ as well


@dataclass(frozen=True, kw_only=True)
class Command:
    """A parsed command line of train_texture.py."""

    config: TrainingConfig
    dry_run: bool


def parse_command_line(arguments: Sequence[str] | None = None, usage: str = "") -> Command:
    """Read `--config FILE` (repeatable), `--section.key value` and `--dry_run`.

    Bad input ends the program with one line on stderr and exit code 2.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(prog=training_program(), description=usage, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; repeat it to lay one over another")
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and stop")
    parser.add_class_arguments(TrainingConfig, as_group=True)
    try:
        parsed = parser.parse_args(_files_first(list(sys.argv[1:] if arguments is None else arguments)))
        several = parsed["data.dataset"] if isinstance(parsed["data.dataset"], list | tuple) else ()
        for place, key in [*((parsed, key) for key in _PATHS), *((source, "path") for source in several)]:
            if isinstance(place[key], str):  # a shell does it, but not in a file
                place[key] = os.path.expanduser(place[key])
        made = parser.instantiate(parsed)
        sections = {name: made[name] for name in TrainingConfig.__dataclass_fields__}
        return Command(config=TrainingConfig(**sections), dry_run=parsed.dry_run)
    except (ArgumentError, InputError) as error:
        raise SystemExit(report_error(_in_plain_words(error))) from None
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
        # What the library raises for files that are not text, or not settings at all.
        raise SystemExit(report_error(InputError(f"--config: not a valid YAML file of settings ({error})"))) from None


_WRONG_TYPE = re.compile(r'Parser key "(?P<key>[^"]*)":.*(?:Got|Given) value: ?(?P<value>.*)', re.DOTALL)


def of_wrong_type(message: str, type_of: Callable[[str], Any]) -> str:
    """What the parser says of a value that its key's type does not allow, in plain words; anything else as it is."""
    found = _WRONG_TYPE.search(message)
    kind = type_of(found["key"]) if found else None
    if found is None or kind is None:
        return message
    return f"{found['key']} must be {in_words(kind)} (got {one_line(found['value']) if found['value'] else 'nothing'})"


def _type_of(key: str) -> Any:
    """The type of section.key; None where there is no such key."""
    section, _, name = key.partition(".")
    kind = get_type_hints(TrainingConfig).get(section)
    return get_type_hints(kind, include_extras=True).get(name) if kind and name else None


def _in_plain_words(error: Exception) -> Exception:
    """What to say instead where the unknown key is one that has another name now, or a value is of the wrong type."""
    for old, new in RENAMED.items():
        section, key = old.split(".")
        if f"--{old}" in str(error) or f"'{section}' does not accept option '{key}'" in str(error):
            return InputError(f"{old} is now called {new}; use that name")
    return error if isinstance(error, InputError) else InputError(of_wrong_type(str(error), _type_of))


def _files_first(arguments: list[str]) -> list[str]:
    """The same arguments, `--config` first, with the text of its file: a flag wins over a file wherever it stands."""
    files: list[str] = []
    flags: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name != "--config":
            flags.append(argument)
            if name == "--data.dataset" and (value := value if equals else next(rest, "")):
                flags[-1:] = [name, _checked_sources(value)]
        elif (file := value if equals else next(rest, None)) is None:
            files.append(argument)  # the parser says that its value is missing
        elif text := read_settings_file(Path(file)):
            files += [name, text]
    return files + flags


def _checked_sources(text: str) -> str:
    """The value of --data.dataset, as it was given. Raises InputError for a list that is not one of sources."""
    import yaml

    if text.lstrip().startswith("["):
        try:
            check_sources(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise InputError(f"data.dataset: not a valid list in YAML ({one_line(error)[:200]})") from None
    return text


def report_error(error: Exception) -> int:
    """Say on stderr, in one line, what is wrong; returns the exit code for it: 2, or 1 for a broken connection."""
    print(f"{training_program()}: error:", one_line(error), file=sys.stderr)
    return 1 if isinstance(error, ConnectionBroken) else 2
