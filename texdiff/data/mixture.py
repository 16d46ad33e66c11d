"""How often each texture is visited, where a dataset is made of several sources or repeats some of its textures.

A source is an entry of data.dataset. Its textures are visited in proportion to their repeats, which kohya's folders and
settings give, 1 where nothing does. Regularisation images, where the source marks some, take as many visits in all as
its other textures, as in kohya's scripts. The source itself has

    repeats  each texture's visits in an epoch, beside those of the other sources' textures: a source's share of visits
             is its textures times repeats over the sum of that over all sources; 1 where nothing is said
    weight   the source's share of visits, whatever the number of its textures: weight over the sum of weights

So shares are fractions of whole numbers, and the visits of a run come in blocks of their common denominator: in a block
each part, which is what a source visits alike, has its exact number of places, in an order that is a permutation keyed
by (seed, block). The k-th visit of a part of n textures is number k mod n of its epoch k div n, and each of its epochs
is a permutation keyed by (seed, epoch, part). So where a run stands follows from the samples seen alone, a texture's
visit is keyed by (epoch of its part, texture), and no draw depends on batches or ranks. One part alone is visited as
any dataset is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import PurePath
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.columns import numbers_of
from texdiff.data.record import Record
from texdiff.diffusion.draws import SampleKey, keyed_generator
from texdiff.diffusion.order import Order, sample_keys

_MOST = 1_000_000  # places of a block: shares that have a larger common denominator are rounded to it


class SourceSettings(Protocol):
    """An entry of data.dataset (`texdiff.config.SourceConfig`)."""

    @property
    def path(self) -> str: ...
    @property
    def weight(self) -> float | None: ...
    @property
    def repeats(self) -> float | None: ...
    @property
    def caption_prefix(self) -> str: ...
    @property
    def loss_weight(self) -> float: ...
    @property
    def prior_loss_weight(self) -> float: ...


@dataclass(frozen=True)
class Part:
    """Textures that are visited alike."""

    group: int  # what it counts to in figures
    indices: NDArray[np.int64]
    visits: int  # in a block


@dataclass(frozen=True)
class Group:
    """A source, or its regularisation images, in figures."""

    name: str
    textures: int
    share: float  # of visits
    loss_weight: float
    note: str  # on what the share comes from


def paths_of(sources: Sequence[SourceSettings]) -> str:
    """The paths of sources, as a user is shown them."""
    return ", ".join(source.path for source in sources)


class Mixture:
    """The visits to `records`, whose `source` says which of `sources` each is of; each part is visited in `order`."""

    def __init__(self, records: Sequence[Record], sources: Sequence[SourceSettings], order: Order = "rows") -> None:
        self.order = order
        shares: list[tuple[int, NDArray[np.int64], Fraction]] = []  # group, textures, relative visits
        names = _names(sources)
        groups: list[tuple[str, bool, SourceSettings, int]] = []  # name, whether regularisation, source, textures
        of_source, repeats, regularisation = (
            numbers_of(records, name).astype(np.int64, copy=False) for name in ("source", "repeats", "regularisation")
        )
        weighted = any(source.weight is not None for source in sources)
        for number, source in enumerate(sources):
            mine = np.flatnonzero(of_source == number)
            rates = _rates(mine, repeats[mine], regularisation[mine] > 0)
            of_all = sum((rate for *_, rate in rates), Fraction(0))
            factor = Fraction(str(source.repeats or 1))
            if weighted and of_all:
                factor = Fraction(str(source.weight or 1)) / of_all
            for kind in (False, True):
                found = [(indices, rate * factor) for of, indices, rate in rates if of == kind]
                shares += [(len(groups), indices, rate) for indices, rate in found]
                if found:
                    groups.append((names[number], kind, source, sum(len(indices) for indices, _ in found)))
        visits = _whole([rate for *_, rate in shares])
        self.parts = tuple(
            Part(group, indices, count) for (group, indices, _), count in zip(shares, visits, strict=True)
        )
        self.block = sum(visits)
        of_group = [sum(part.visits for part in self.parts if part.group == group) for group in range(len(groups))]
        self.groups = tuple(
            Group(
                name=f"{name} (regularisation)" if kind else name,
                textures=textures,
                share=count / self.block,
                loss_weight=source.loss_weight * (source.prior_loss_weight if kind else 1.0),
                note=f"weight {source.weight or 1:g}" if weighted else f"repeats {source.repeats or 1:g}",
            )
            for (name, kind, source, textures), count in zip(groups, of_group, strict=True)
        )
        self.group_of = torch.zeros(len(records), dtype=torch.long)  # [n]
        for part in self.parts:
            self.group_of[torch.from_numpy(part.indices)] = part.group
        self.loss_weights = torch.tensor([group.loss_weight for group in self.groups])[self.group_of]  # [n]

    @property
    def content(self) -> tuple[object, ...]:
        """What of it decides what is learnt; nothing where all textures are visited alike."""
        if len(self.parts) == 1 and self.groups[0].loss_weight == 1:
            return ()
        parts = [
            (tuple(part.indices.tolist()), part.visits, self.groups[part.group].loss_weight) for part in self.parts
        ]
        return ("mixture", parts)

    def keys(self, seed: int, start: int, count: int) -> list[SampleKey]:
        """Samples number `start` to `start + count` of the endless stream of visits: (epoch of its part, texture)."""
        keys = []
        for number in range(start, start + count):
            block, place = divmod(number, self.block)
            part, nth = self._pattern(seed, block)
            which = int(part[place])
            indices = self.parts[which].indices
            visit = block * self.parts[which].visits + int(nth[place])
            [(epoch, at)] = sample_keys(seed, visit, 1, len(indices), which, self.order)
            keys.append((epoch, int(indices[at])))
        return keys

    def seen(self, seed: int, samples: int) -> list[float]:
        """Each group's share of the first `samples` visits, of which there is at least one."""
        block, place = divmod(samples, self.block)
        part, _ = self._pattern(seed, block)
        begun = np.bincount(part[:place], minlength=len(self.parts))
        counts = [0] * len(self.groups)
        for which, one in enumerate(self.parts):
            counts[one.group] += block * one.visits + int(begun[which])
        return [count / samples for count in counts]

    def by_group(self, values: Tensor, group: Tensor) -> Tensor:
        """Sums [G] of values [B] over the samples of each group, which are `group` [B]."""
        if len(self.groups) == 1:
            return values.sum().view(1)
        return torch.zeros(len(self.groups), device=values.device).index_add_(0, group, values)

    def describe(self, samples: int) -> list[str]:
        """A line for each group on its share of a run of so many samples; none where there is one alone."""
        if len(self.parts) == 1:
            return []
        return [
            f"{group.name}: {group.share:.1%} of visits ({group.textures} texture{'s' * (group.textures != 1)}, "
            f"{group.note}, {group.share * samples / group.textures:.1f} visits each"
            + (f", loss weight {group.loss_weight:g})" if group.loss_weight != 1 else ")")
            for group in self.groups
        ]

    def _pattern(self, seed: int, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _pattern(seed, block, tuple(part.visits for part in self.parts))


@lru_cache(maxsize=2)  # a step may end one block and begin the next
def _pattern(seed: int, block: int, visits: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each place in a block, its part and which of the part's visits in the block it is, int64 [W] each."""
    ordered = np.repeat(np.arange(len(visits)), visits)
    if len(visits) > 1:
        ordered = ordered[torch.randperm(len(ordered), generator=keyed_generator(seed, block, "sources")).numpy()]
    nth = np.empty_like(ordered)
    nth[np.argsort(ordered, kind="stable")] = np.concatenate([np.arange(count) for count in visits])
    return ordered, nth


def _rates(
    mine: NDArray[np.int64], repeats: NDArray[np.int64], regularisation: NDArray[np.bool_]
) -> list[tuple[bool, NDArray[np.int64], Fraction]]:
    """The parts of a source, of whose textures `mine` [n] repeats [n] and regularisation [n] are given, by their first:
    whether they are regularisation images, which textures, and visits in an epoch."""
    kinds, first, which = np.unique(2 * repeats + regularisation, return_index=True, return_inverse=True)
    by_rate = {
        (bool(kinds[kind] % 2), int(kinds[kind] // 2)): mine[which == kind] for kind in np.argsort(first).tolist()
    }
    trained, prior = (
        sum(rate * len(found) for (of, rate), found in by_rate.items() if of == kind) for kind in (False, True)
    )
    match = Fraction(trained, prior) if trained and prior else Fraction(1)
    return [
        (of, indices, rate * len(indices) * (match if of else Fraction(1))) for (of, rate), indices in by_rate.items()
    ]


def _whole(rates: Sequence[Fraction]) -> list[int]:
    """The smallest whole numbers in the ratio of `rates`."""
    if not rates:
        return []
    numbers = [int(rate * math.lcm(*(rate.denominator for rate in rates))) for rate in rates]
    if sum(numbers) // math.gcd(*numbers) > _MOST:
        total = sum(numbers)
        numbers = [max(1, round(Fraction(number * _MOST, total))) for number in numbers]
    return [number // math.gcd(*numbers) for number in numbers]


def _names(sources: Sequence[SourceSettings]) -> list[str]:
    """The last part of each path, and the whole path where that of another is the same."""
    short = [PurePath(source.path).name or source.path for source in sources]
    paths = [source.path if short.count(name) > 1 else name for source, name in zip(sources, short, strict=True)]
    return [f"{path} [{n}]" if paths.count(path) > 1 else path for n, path in enumerate(paths)]
