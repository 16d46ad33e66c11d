"""Bounds of settings, in their types: `--help` shows them, and `check_bounds` refuses what is out of them."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from texdiff.errors import InputError


@dataclass(frozen=True, repr=False)
class Must:
    """What a value must be, in words and as a test."""

    be: str
    holds: Callable[[Any], bool]

    def __repr__(self) -> str:
        return self.be


Count = Annotated[int, Must("at least 1", lambda value: value >= 1)]
CountOrNone = Annotated[int, Must("at least 0", lambda value: value >= 0)]
NonNegative = Annotated[float, Must("at least 0", lambda value: value >= 0)]
Positive = Annotated[float, Must("above 0", lambda value: value > 0)]
Share = Annotated[float, Must("at least 0 and below 1", lambda value: 0 <= value < 1)]
Weight = Annotated[float, Must("from 0 to 1", lambda value: 0 <= value <= 1)]
Grey = Annotated[int, Must("from 0 to 255", lambda value: 0 <= value <= 255)]
Resolution = Annotated[int, Must("a multiple of 8, at least 64", lambda value: value >= 64 and value % 8 == 0)]
Scales = Annotated[
    tuple[float, ...],
    Must("one or more numbers from 0 to 1", lambda value: len(value) > 0 and all(0 <= part <= 1 for part in value)),
]
Names = Annotated[tuple[str, ...], Must("at least one name", bool)]


_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}


def in_words(kind: Any) -> str:
    """What a value of this type must be, as one says it of a setting: `a whole number, at least 1, or null`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{in_words(parts[0])}, {parts[1]}"
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is tuple:
        return f"a list such as {'[1, 0.5]' if parts[0] is float else '[a, b]'}"
    words = [in_words(part) for part in parts] or [_IN_WORDS.get(kind, "a text")]
    return f"{words[0]}{', or' if ',' in words[0] else ' or'} {words[1]}" if words[1:] else words[0]


_INTEGERS = range(-(2**63), 2**64)  # what generators of random numbers take as a seed


def check_bounds(section: str, values: object) -> None:
    """Raise InputError for the first attribute of a section, a dataclass, that its type does not allow: also for None
    where the type does not name it, for numbers that are infinite or none, and for integers of more than 64 bits.

    Texts are within any bounds.
    """
    for name, kind in get_type_hints(type(values), include_extras=True).items():
        value = getattr(values, name)
        if value is None and NoneType not in get_args(kind):
            raise InputError(f"{section}.{name} must not be null; give a value, or leave the key out for its default")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{section}.{name} must be a finite number (got {value})")
        if isinstance(value, int) and value not in _INTEGERS:
            raise InputError(f"{section}.{name} must fit into 64 bits (got {value})")
        for must in _bounds(kind) if not isinstance(value, str | None) else ():
            if not must.holds(value):
                raise InputError(f"{section}.{name} must be {must} (got {value})")


def _bounds(kind: object) -> Iterator[Must]:
    """The bounds in a type, also in one of a union."""
    if get_origin(kind) is Annotated:
        yield from kind.__metadata__  # type: ignore[attr-defined]
    else:
        for part in get_args(kind):
            yield from _bounds(part)
