"""Captions that are longer than a text encoder reads: what stands beyond is cut, so it cannot be learnt."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

CLIP_TOKENS = 75
"""What CLIP's text encoders read of a prompt, beside its marks of start and end: those of Stable Diffusion 1 and 2."""

CountTokens = Callable[[Sequence[str]], list[int]]
"""The tokens of each of these texts, without marks of start and end."""


@dataclass(frozen=True, kw_only=True)
class LongCaptions:
    """The captions that are cut."""

    count: int
    total: int
    limit: int
    first: str  # the name of the first texture that has one
    tokens: int  # of that caption

    def __str__(self) -> str:
        more = " or ".join(str(length) for length in (150, 225) if length > self.limit)
        are = "caption is" if self.count == 1 else "captions are"
        return (
            f"{self.count} of {self.total} {are} longer than the {self.limit} tokens that the text encoder reads, the "
            f"rest is cut; the first is that of {self.first}, with {self.tokens}"
            + (f"; data.max_token_length can be {more}" if more else "")
        )


def find_long_captions(
    textures: Iterable[tuple[str, Sequence[str]]], count_tokens: CountTokens, limit: int = CLIP_TOKENS
) -> LongCaptions | None:
    """Of textures, each a name and its captions, those captions that have more tokens; None where there are none.

    Tokens are counted of captions that may have so many: a token has a character at least.
    """
    pairs = [(name, caption) for name, captions in textures for caption in captions]
    texts = list(dict.fromkeys(text for _, text in pairs if len(text) > limit or not text.isascii()))
    tokens = dict(zip(texts, count_tokens(texts), strict=True)) if texts else {}
    cut = [(name, tokens[text]) for name, text in pairs if tokens.get(text, 0) > limit]
    if not cut:
        return None
    return LongCaptions(count=len(cut), total=len(pairs), limit=limit, first=cut[0][0], tokens=cut[0][1])
