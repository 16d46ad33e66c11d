"""What void a run's textures have, and what a loss that counts it would teach."""

from collections.abc import Sequence
from dataclasses import dataclass

from texdiff.config import TrainingConfig
from texdiff.data.cache.encoders import ahead
from texdiff.data.record import Record
from texdiff.render.void import Colour, common_colours
from texdiff.training.run import Run
from texdiff.uv.void import flat_void

LOOKED_AT = 64  # textures, evenly spaced: enough to see a colour that one in twenty has


@dataclass(frozen=True, kw_only=True)
class Voids:
    """The voids of the textures that were looked at. Shares are 0-1."""

    textures: int
    """How many were looked at."""
    flat: float
    """Share of them whose void is one flat colour."""
    colours: tuple[tuple[Colour, float], ...]
    """Common colours of flat voids, each with the share of the textures that have it."""

    def __str__(self) -> str:
        if not self.flat:
            return "none of the textures has a void of one colour"
        return f"{self.flat:.0%} of the textures have a void of one colour{named(self.colours)}"


def named(colours: Sequence[tuple[Colour, float]]) -> str:
    """` (#000000 in 20%, #ffffff in 11%)`; nothing where there are none."""
    shares = ", ".join(f"#{red:02x}{green:02x}{blue:02x} in {share:.0%}" for (red, green, blue), share in colours)
    return f" ({shares})" if shares else ""


def measure_voids(records: Sequence[Record], background: str | int) -> Voids:
    """Of at most LOOKED_AT of the records; where `background` is a grey of 0-255, that is the void of all of them.

    Raises InputError for a record that cannot be read.
    """
    if not isinstance(background, str):
        return Voids(textures=len(records), flat=1.0, colours=(((background,) * 3, 1.0),))
    some = records[:: -(-len(records) // LOOKED_AT)]
    found = list(ahead(_void, some))
    flat = sum(colour is not None for colour in found) / len(found)
    return Voids(textures=len(found), flat=flat, colours=tuple(common_colours(found).items()))


def _void(record: Record) -> Colour | None:
    return flat_void(*record.read())


def void_warning(voids: Voids, config: TrainingConfig) -> str | None:
    """One line where the settings would teach a flat void."""
    weight, background = config.mask.outside_weight, config.data.background
    if background == "fill" or config.mask.outside == "base_model" or not weight or not voids.flat:
        return None
    return (
        f"warning: data.background {background} with mask.unmasked_weight {weight:g} teaches the model to paint the "
        f"void on the mesh: {voids}; set data.background to fill or mask.unmasked_weight to 0"
    )


def void_colours(run: Run) -> list[Colour]:
    """The common colours of the training textures' voids, of RUN/masks.json; none where an earlier version wrote it."""
    try:
        return [(red, green, blue) for (red, green, blue), _ in run.masks()["voids"]["colours"]]
    except (LookupError, TypeError, ValueError):
        return []
