"""What audit.html shows where textures are many: of those that are kept the worst by each measure and some at random,
those set aside in groups by their reasons. Bounded in memory and on the page, and the same for the same textures."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from texdiff.data.prepare.audit.reasons import kind_of, shared

_ALL = 1000  # rows up to which the page has all of them, which are some 5 KB each
_KEPT = 300  # rows of kept textures beyond that
_WORST = 8  # of them by each measure
_GROUPS = 60  # reasons that are told apart
_PICTURES = 8  # of each reason
_LETTERS = 50_000  # of the names of each reason
_OTHERS = "other reasons"

# What is looked at first, and where the worst of it lies. Only what is above 0 is among the highest.
_MEASURES = {
    "lowest": ("coverage", "contrast", "colours", "source_width", "density"),
    "highest": (
        *("coverage", "islands", "islands_lost", "latent_lost_nearest", "latent_void_nearest", "not_finite"),
        *("degenerate", "flipped", "out_of_range", "overlap", "repeats", "without_position", "density_spread"),
    ),
}

Row = dict[str, Any]
Item = TypeVar("Item")


class _First(Generic[Item]):
    """Of items by keys, none twice, the `count` with the smallest keys, in their order."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: list[tuple[Any, Row, Item]] = []

    def add(self, key: Any, row: Row, item: Item) -> None:
        if len(self.found) < self.count or key < self.found[-1][0]:
            insort(self.found, (key, row, item), key=lambda one: one[0])
            del self.found[self.count :]


@dataclass
class Group(Generic[Item]):
    """What was set aside for one reason."""

    reason: str
    count: int = 0
    pictures: _First[Item] = field(default_factory=lambda: _First(_PICTURES))  # of those that have a texture
    names: list[str] = field(default_factory=list)  # the first of them
    letters: int = 0


class Sample(Generic[Item]):
    """Of audit rows, each added with what its thumbnails are made of, those to show."""

    def __init__(self) -> None:
        self.kept = 0
        self.groups: dict[str, Group[Item]] = {}
        self._all: list[tuple[Row, Item]] = []
        self._worst = {(end, name): _First[Item](_WORST) for end, names in _MEASURES.items() for name in names}
        self._random = _First[Item](_KEPT)

    @property
    def is_all(self) -> bool:
        """Whether every row is shown."""
        return self.kept + self.aside <= _ALL

    @property
    def aside(self) -> int:
        """How many are set aside."""
        return sum(group.count for group in self.groups.values())

    def add(self, row: Row, item: Item) -> None:
        """Take one more into account."""
        if len(self._all) <= _ALL:
            self._all.append((row, item))
        if not row["kept"]:
            self._set_aside(row, item)
            return
        self.kept += 1
        self._random.add(row["content"], row, item)
        for (end, name), worst in self._worst.items():
            value = row.get(name)
            if value is not None and (value > 0 or end == "lowest"):
                worst.add((value if end == "lowest" else -value, row["content"]), row, item)

    def rows(self) -> Iterator[tuple[Row, Item]]:
        """The rows of the table: all, those with a texture first, as of real meshes half of the parts have none; or
        a sample of those that are kept, each with what it is shown for."""
        if self.is_all:
            yield from sorted(self._all, key=lambda one: "content" not in one[0])
            return
        shown: dict[str, tuple[Row, Item]] = {}
        why: dict[str, list[str]] = {}
        for (end, name), worst in self._worst.items():
            for _, row, item in worst.found:
                shown.setdefault(row["content"], (row, item))
                why.setdefault(row["content"], []).append(f"{end} {name.replace('_', ' ')}")
        for content, row, item in self._random.found:
            if len(shown) < _KEPT:
                shown.setdefault(content, (row, item))
        for content, (row, item) in shown.items():
            yield row | {"shown_for": ", ".join(why.get(content, ["at random"]))}, item

    def _set_aside(self, row: Row, item: Item) -> None:
        reason, kind = row["reason"], kind_of(row["reason"])
        if kind not in self.groups and len(self.groups) >= _GROUPS:
            reason = kind = _OTHERS
        group = self.groups.setdefault(kind, Group(reason))
        group.reason = shared(group.reason, reason)
        group.count += 1
        name = ": ".join(filter(None, (row["source"], row["texture"])))
        if group.letters + len(name) <= _LETTERS and len(group.names) == group.count - 1:
            group.names.append(name)
            group.letters += len(name)
        if "content" in row:
            group.pictures.add(row["content"], row, item)
