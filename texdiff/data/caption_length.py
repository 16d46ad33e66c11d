"""Captions that are longer than a text encoder reads, of which the rest cannot be learnt; and empty ones."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

CLIP_TOKENS = 75
"""What CLIP's text encoders read of a prompt, beside its marks of start and end: those of Stable Diffusion 1 and 2."""

_LOOKED_AT = 20_000  # different captions of which tokens are counted, about: that takes a second

CountTokens = Callable[[Sequence[str]], list[int]]
"""The tokens of each of these texts, without marks of start and end."""


@dataclass(frozen=True, kw_only=True)
class LongCaptions:
    """The captions that are cut."""

    count: int
    total: int
    rest: bool  # whether there are more, which were not looked at
    limit: int
    first: str  # the name of the first texture that has one
    tokens: int  # of that caption

    def __str__(self) -> str:
        more = " or ".join(str(length) for length in (150, 225) if length > self.limit)
        are = "captions is" if self.count == 1 else "captions are"
        return (
            f"{self.count} of {'the first ' * self.rest}{self.total} {are} longer than the {self.limit} tokens that "
            f"the text encoder reads, the rest is cut; the first is that of {self.first}, with {self.tokens}"
            + (f"; data.max_token_length can be {more}" if more else "")
        )


def describe_empty(captions: Iterable[Sequence[str]]) -> str:
    """How many of the captions, textures' each, are empty, in one line; '' where none is."""
    total = empty = 0
    for texts in captions:
        total += len(texts)
        empty += sum(not text.strip() for text in texts)
    are = "captions is" if empty == 1 else "captions are"
    return f"{empty} of {total} {are} empty: visits to them teach no words, like dropped ones" if empty else ""


def find_long_captions(
    textures: Iterable[tuple[str, Sequence[str]]], count_tokens: CountTokens, limit: int = CLIP_TOKENS
) -> LongCaptions | None:
    """Of textures, each a name and its captions, those captions that have more tokens; None where there are none.

    Tokens are counted of captions that may have so many: a token has a character at least. Of those not all are looked
    at where there are very many.
    """
    total, times, first = 0, Counter[str](), dict[str, str]()
    textures = iter(textures)
    for name, captions in textures:
        total += len(captions)
        for text in captions:
            if len(text) > limit or not text.isascii():
                times[text] += 1
                first.setdefault(text, name)
        if len(first) >= _LOOKED_AT:
            break
    rest = next(textures, None) is not None
    texts = list(first)  # in their order
    tokens = dict(zip(texts, count_tokens(texts), strict=True)) if texts else {}
    cut = [text for text in texts if tokens[text] > limit]
    if not cut:
        return None
    count = sum(times[text] for text in cut)
    one = cut[0]
    return LongCaptions(count=count, total=total, rest=rest, limit=limit, first=first[one], tokens=tokens[one])
