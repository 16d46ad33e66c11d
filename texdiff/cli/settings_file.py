"""A YAML file of settings as the parser of flags gets it: what YAML itself lets pass in silence is refused here."""

import math
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from texdiff.config import RENAMED, TrainingConfig
from texdiff.config.data import check_sources
from texdiff.errors import InputError, one_line

if TYPE_CHECKING:
    import yaml

_NULL, _FLOAT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "float", "merge"))
_SECTIONS = get_type_hints(TrainingConfig)
_KEYS = [f"{section}.{field.name}" for section, kind in _SECTIONS.items() for field in fields(kind)]


def read_settings_file(path: Path) -> str:
    """The file's text without its empty sections, which are their defaults; nothing where nothing is left.

    Raises InputError, naming file and line, for a file that is not YAML or no settings, for a section that is not a
    mapping, a key that there is not, a section or key that is given twice, and numbers that are infinite or not a
    number.
    """
    import yaml

    try:
        text = path.read_text("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: not a valid YAML file ({one_line(error)[:200]})") from None
    if root is None or root.tag == _NULL:
        return ""
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"--config {path}: holds no settings; write sections, such as data, with keys")
    _check(root, path, (), {})
    try:
        yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # tags that are not YAML's own
        raise InputError(f"--config {path}: not a valid YAML file ({one_line(error)[:200]})") from None
    kept = []
    for key, value in root.value:
        if key.value == "config":
            raise _wrong(path, key, "config is not a setting; give --config once for each file")
        if key.value in _SECTIONS and value.tag != _NULL and not isinstance(value, yaml.MappingNode):
            raise _wrong(path, key, f"{key.value} must be a section with keys, not a value")
        if key.value not in _SECTIONS or value.tag != _NULL:
            kept.append((key, value))
    root.value = kept
    return yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=math.inf) if kept else ""


def _check(node: "yaml.MappingNode", path: Path, above: tuple[str, ...], lines: dict[str, int]) -> None:
    """`lines` are those of the keys so far, by their full names: `lora.rank` may stand in a section or for itself."""
    import yaml

    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(path, key, "a key must be a name")
        if key.tag == _MERGE:
            continue
        name = ".".join((*above, key.value))
        if name in lines:
            raise _wrong(path, key, f"{name} is given twice, first in line {lines[name]}; remove one")
        lines[name] = key.start_mark.line + 1
        if value.tag == _FLOAT and value.value.lower().lstrip("+-") in (".inf", ".nan"):
            raise _wrong(path, key, f"{name} must be a finite number (got {value.value})")
        known = (*_SECTIONS, *_KEYS, *RENAMED, "config")
        if len(above) < 2 and name not in known and "dataset[" not in name:
            near = get_close_matches(name, known, n=1)
            raise _wrong(path, key, f"{name} is not a setting; {f'nearest is {near[0]}' if near else 'see --help'}")
        if isinstance(value, yaml.MappingNode) and len(above) < 8:
            _check(value, path, (*above, key.value), lines)
        if name == "data.dataset" and isinstance(value, yaml.SequenceNode):
            for number, source in enumerate(value.value):
                if isinstance(source, yaml.MappingNode):
                    _check(source, path, ("data", f"dataset[{number}]"), lines)
            try:
                check_sources(yaml.safe_load(yaml.serialize(value)))
            except InputError as error:
                raise _wrong(path, key, str(error)) from None


def _wrong(path: Path, node: "yaml.Node", text: str) -> InputError:
    return InputError(f"--config {path}, line {node.start_mark.line + 1}: {text}")
