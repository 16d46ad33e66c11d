"""Reasons for setting things aside, counted by their kinds, each in the words that all reasons of the kind share."""

import re
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher


def kind_of(reason: str) -> str:
    """What a reason is counted by: its clauses, with a dot-dot-dot for their numbers and names of files."""
    odd = r"\S*[\d./\\]\S*"
    clauses = (clause.split("(")[0] for clause in reason.split(";"))
    return "; ".join(re.sub(rf"{odd}(.*{odd})?", "…", clause).strip() for clause in clauses)


def shared(wording: str, reason: str) -> str:
    """The words that both have, with a dot-dot-dot where they differ."""
    if wording == reason:
        return wording
    one, other = (re.findall(r"[;:,]|\s*[^\s;:,]+", text) for text in (wording, reason))
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    words, at = [""], (0, 0)
    for block in blocks:
        if at != (block.a, block.b) and not words[-1].endswith("…"):
            words.append(" …" if words[-1] else "…")
        words += one[block.a : block.a + block.size]
        at = (block.a + block.size, block.b + block.size)
    return "".join(words)


def count_reasons(reasons: Iterable[str]) -> Counter[str]:
    """How many there are of each kind, by its wording."""
    counts: Counter[str] = Counter()
    wordings: dict[str, str] = {}
    for reason in reasons:
        counts[kind := kind_of(reason)] += 1
        wordings[kind] = shared(wordings.get(kind, reason), reason)
    return Counter({wordings[kind]: count for kind, count in counts.items()})
