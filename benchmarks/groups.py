"""What a step is made of: seconds of a profile, by kind of operation."""

from collections.abc import Iterable
from typing import Any

OPTIMIZER = "benchmark: optimiser"  # the range that the clock puts around an optimiser step

# The first kind with a word that is in an operation's name has it.
WORDS = {
    "attention": ("attention",),
    "convolution": ("conv",),
    "normalisation": ("norm",),
    "linear": ("addmm", "::mm", "bmm", "linear"),
}
REST = "elementwise and copies"


def group(name: str) -> str | None:
    """The group of an operation such as `aten::addmm`; None for what is no operation (a range, autograd's engine)."""
    if "::" not in name or name.startswith("autograd::"):
        return None
    return next((kind for kind, words in WORDS.items() if any(word in name for word in words)), REST)


def seconds_by_group(events: Iterable[Any]) -> dict[str, float]:
    """Seconds of the operations in `torch.profiler`'s events, each without those that it calls.

    On a GPU the seconds of its kernels, on a CPU those of the calling thread. What is done inside the optimiser's range
    counts as "optimiser", whatever it is.
    """
    events = list(events)
    times = [event.self_device_time_total for event in events]
    if not any(times):
        times = [event.self_cpu_time_total for event in events]
    totals = dict.fromkeys([*WORDS, REST, "optimiser"], 0.0)
    for event, microseconds in zip(events, times, strict=True):
        kind = "optimiser" if _inside(event, OPTIMIZER) else group(event.name)
        if kind:
            totals[kind] += microseconds / 1e6
    return totals


def _inside(event: Any, name: str) -> bool:
    while event is not None:
        if event.name == name:
            return True
        event = event.cpu_parent
    return False
