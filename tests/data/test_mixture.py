"""Visits to several sources: exact shares, every texture as often as its like, and one stream however it is cut."""

from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.config import SourceConfig
from texdiff.data.image_source import StoredFile
from texdiff.data.mixture import Mixture
from texdiff.data.record import Record
from texdiff.diffusion import order
from texdiff.diffusion.order import sample_keys


def record(source: int = 0, repeats: int = 1, regularisation: bool = False) -> Record:
    file = StoredFile("")
    return Record(
        name="", image=file, mask=file, captions=("",), source=source, repeats=repeats, regularisation=regularisation
    )


def mixture_of(sizes: list[int], **settings: list[float]) -> Mixture:
    sources = [
        SourceConfig(path=f"folder/{n}", **{key: values[n] for key, values in settings.items()})
        for n in range(len(sizes))
    ]
    return Mixture([record(n) for n, size in enumerate(sizes) for _ in range(size)], sources)


weights = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 1.5])
mixtures = st.lists(st.tuples(st.integers(1, 7), weights), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(parts=mixtures, seed=st.integers(0, 99))
def test_every_block_has_the_exact_shares(parts: list[tuple[int, float]], seed: int) -> None:
    sizes, given_weights = [size for size, _ in parts], [weight for _, weight in parts]
    mixture = mixture_of(sizes, weight=given_weights)
    total = sum(map(Fraction, given_weights))
    for block in range(3):
        keys = mixture.keys(seed, block * mixture.block, mixture.block)
        visits = Counter(int(mixture.group_of[index]) for _, index in keys)
        assert [Fraction(visits[n], mixture.block) for n in range(len(parts))] == [
            Fraction(weight) / total for weight in given_weights
        ]


@settings(max_examples=60, deadline=None)
@given(parts=mixtures, seed=st.integers(0, 99), by=st.sampled_from(["weight", "repeats"]), length=st.integers(1, 200))
def test_no_visit_comes_twice_and_textures_of_a_part_take_turns(
    parts: list[tuple[int, float]], seed: int, by: str, length: int
) -> None:
    mixture = mixture_of([size for size, _ in parts], **{by: [value for _, value in parts]})
    keys = mixture.keys(seed, 0, length)
    assert len(set(keys)) == length
    for part in mixture.parts:
        visits = [(epoch, index) for epoch, index in keys if index in part.indices]
        assert [epoch for epoch, _ in visits] == [k // len(part.indices) for k in range(len(visits))]
        counts = Counter(index for _, index in visits)
        assert max(counts.values(), default=0) - min((counts[index] for index in part.indices), default=0) <= 1
    seen = mixture.seen(seed, length)
    visits_of = Counter(int(mixture.group_of[index]) for _, index in keys)
    assert seen == [pytest.approx(visits_of[group] / length) for group in range(len(mixture.groups))]


@settings(max_examples=60, deadline=None)
@given(parts=mixtures, seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_the_stream_does_not_depend_on_where_it_is_cut(
    parts: list[tuple[int, float]], seed: int, cuts: list[int]
) -> None:
    mixture = mixture_of([size for size, _ in parts], weight=[weight for _, weight in parts])
    whole, pieces, start = mixture.keys(seed, 0, sum(cuts)), [], 0
    for cut in cuts:
        pieces += mixture.keys(seed, start, cut)
        start += cut
    assert pieces == whole


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_parts_keep_their_shares_and_turns_in_blocks(sizes: list[int], seed: int) -> None:
    """In whatever order: only which of a part's textures comes next is another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK", 4)
        patch.setattr(order, "WINDOW", 2)
        patch.setattr(order, "_stretches", {})
        sources = [SourceConfig(path=f"folder/{n}", weight=1 + n) for n in range(len(sizes))]
        records = [record(n) for n, size in enumerate(sizes) for _ in range(size)]
        by_rows, in_blocks = (Mixture(records, sources, kind) for kind in ("rows", "blocks"))
        one, other = (mixture.keys(seed, 0, 200) for mixture in (by_rows, in_blocks))
    assert [records[index].source for _, index in one] == [records[index].source for _, index in other]
    assert [epoch for epoch, _ in one] == [epoch for epoch, _ in other]
    for part in in_blocks.parts:
        visits = [index for _, index in other if index in part.indices]
        for start in range(0, len(visits) - len(part.indices) + 1, len(part.indices)):
            assert sorted(visits[start : start + len(part.indices)]) == part.indices.tolist()


@pytest.mark.parametrize("size", [1, 7, 50])
def test_one_source_is_visited_as_ever(size: int) -> None:
    for source in (SourceConfig(path="a"), SourceConfig(path="a", weight=3), SourceConfig(path="a", repeats=10)):
        mixture = Mixture([record() for _ in range(size)], [source])
        assert mixture.keys(5, 3, 3 * size) == sample_keys(5, 3, 3 * size, size)
        assert mixture.content == ()
    assert Mixture([record(repeats=10) for _ in range(size)], [source]).keys(5, 0, 9) == sample_keys(5, 0, 9, size)


def test_repeats_are_visits_in_an_epoch() -> None:
    """10_cup with two textures, 3_bowl with four, and what has no repeats: 20 + 12 + 5 visits."""
    records = [record(repeats=10)] * 2 + [record(repeats=3)] * 4 + [record()] * 5
    mixture = Mixture(records, [SourceConfig(path="a")])
    assert mixture.block == 37
    visits = Counter(index for _, index in mixture.keys(0, 0, 37))
    assert [visits[index] for index in range(11)] == [10] * 2 + [3] * 4 + [1] * 5
    twice = Mixture([*records, record(source=1)], [SourceConfig(path="a", repeats=2), SourceConfig(path="b")])
    assert [group.share for group in twice.groups] == [74 / 75, 1 / 75]


def test_regularisation_images_take_as_many_visits_as_the_others() -> None:
    records = [record(repeats=5)] * 3 + [record(regularisation=True)] * 40
    source = SourceConfig(path="set.toml", loss_weight=0.5, prior_loss_weight=0.2)
    mixture = Mixture(records, [source])
    assert [group.name for group in mixture.groups] == ["set.toml", "set.toml (regularisation)"]
    assert [group.share for group in mixture.groups] == [0.5, 0.5]
    assert mixture.loss_weights.tolist() == [0.5] * 3 + [pytest.approx(0.1)] * 40
    beside = Mixture([*records, record(source=1)], [SourceConfig(path="a", weight=1), SourceConfig(path="b", weight=2)])
    assert [group.share for group in beside.groups] == [
        pytest.approx(1 / 6),
        pytest.approx(1 / 6),
        pytest.approx(2 / 3),
    ]


def test_shares_of_odd_weights_are_rounded_to_a_millionth() -> None:
    mixture = mixture_of([3, 4], weight=[0.1234567, 0.7654321])
    assert mixture.block <= 1_000_001
    assert mixture.groups[0].share == pytest.approx(0.1234567 / 0.8888888, abs=1e-6)


def test_what_is_learnt_depends_on_shares_and_loss_weights() -> None:
    def content(**setting: list[float]) -> object:
        return mixture_of([2, 3], **setting).content

    contents = [content(), content(weight=[1, 2]), content(weight=[1, 3]), content(loss_weight=[1, 0.5])]
    assert len(set(map(repr, contents))) == 4
    assert content(weight=[1, 2]) == content(weight=[0.5, 1])


def test_figures_add_up() -> None:
    mixture = mixture_of([2, 3])
    values = torch.arange(5.0)
    assert mixture.by_group(values, mixture.group_of).tolist() == [1.0, 9.0]
    assert mixture_of([5]).by_group(values, torch.zeros(5, dtype=torch.long)).tolist() == [10.0]


def test_names_tell_sources_apart() -> None:
    paths = ["a/set", "b/set", "c", "c"]
    mixture = Mixture([record(n) for n in range(4)], [SourceConfig(path=path) for path in paths])
    assert [group.name for group in mixture.groups] == ["a/set", "b/set", "c [2]", "c [3]"]
