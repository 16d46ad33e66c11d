"""Nested state in one safetensors file: its tensors, and the rest as JSON in the file's metadata.

Nothing in such a file can carry code, whoever wrote it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

KEY = "structure"


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write dicts (keys of str or int), lists, tuples, tensors, numbers, strings and None. Raises TypeError else."""
    tensors: dict[str, Tensor] = {}
    structure = _taken_apart(state, "", tensors)
    held: set[int] = set()
    for name, tensor in tensors.items():  # the format refuses two in one memory, as bitsandbytes has tables on a CPU
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in held else tensor
        held.add(place)
    save_file(tensors, path, metadata={KEY: json.dumps(structure)})


def read_state(path: Path) -> Any:
    """What was written, tensors on the CPU. Raises SafetensorError, KeyError, TypeError or ValueError for damage."""
    with safe_open(path, framework="pt") as file:
        structure = json.loads((file.metadata() or {})[KEY])
        return _put_together(structure, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _taken_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        unique = f"{len(tensors)}{name}"
        tensors[unique] = value.detach().cpu().contiguous()
        return {"tensor": unique}
    if isinstance(value, Mapping):  # as pairs, since JSON's keys are strings and an optimiser's are numbers
        return {"dict": [[key, _taken_apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_taken_apart(item, f"{name}.{number}", tensors) for number, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} cannot be kept")


def _put_together(structure: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(structure, dict):
        return structure
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(item, tensors) for key, item in content}
    items = [_put_together(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
