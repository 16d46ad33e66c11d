"""What is compared: datasets by what their void is, arms by what is done about it, and the runs in their order."""

from dataclasses import dataclass

BANDS = {"all": (0.15, 0.85), "15-35": (0.15, 0.35), "35-60": (0.35, 0.60), "60-85": (0.60, 0.85)}
BANDS |= {"flat": BANDS["all"], "thin": (0.02, 0.98)}
"""Covered shares of the textures. Of `flat` only those whose own void is flat (`texdiff.uv.void`); of `thin` the third
of which the most is lost at latent size: thin islands, and very unlike coverage."""

USUAL, MASK, FILL, BOTH, OUTSIDE = "usual way", "mask", "fill", "mask and fill", "mask and fill, base model outside"
BASE = "nano itself"
FOUR = (USUAL, MASK, FILL, BOTH)
ARMS: dict[str, tuple[str, dict[str, object]]] = {
    USUAL: ("keep", {"unmasked_weight": 1.0}),
    MASK: ("keep", {}),
    FILL: ("fill", {"unmasked_weight": 1.0}),
    BOTH: ("fill", {}),
    OUTSIDE: ("fill", {"outside": "base_model"}),
    "area": ("fill", {"downsample": "area"}),
    "sample": ("fill", {"reduction": "sample"}),
}
"""data.background and the settings of the section mask. The usual way is that of trainers without masks: the void is
kept, and counts like everything else."""

VOIDS = ("black", "white", "magenta", "noise", "others", "found")
"""Painted flat; independent random colours; the texels of another atlas; as the files have it."""
FLAT = {"black": (0, 0, 0), "white": (255, 255, 255), "magenta": (255, 0, 255)}


@dataclass(frozen=True)
class Job:
    """One training run. With a filled void it is the same for every kind of void, so it stands under `black`."""

    void: str
    band: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.void}-{self.band}-{self.arm.replace(', ', '-').replace(' ', '_')}-{self.seed}"


def jobs(seeds: int) -> list[Job]:
    """All runs, those that say most first, so that a study which is cut short has compared something."""
    every = (USUAL, BOTH, MASK, FILL)
    main = [[Job("black", "all", arm, seed) for arm in (BASE, *every)] for seed in range(seeds)]
    native = [[Job("found", "flat", arm, seed) for arm in every] for seed in range(3)]
    kinds = [
        [
            Job(void, "all", arm, seed)
            for void in ("white", "found", "magenta", "noise", "others")
            for arm in (USUAL, MASK)
        ]
        for seed in range(3)
    ]
    outside = [[Job("black", "all", OUTSIDE, seed)] for seed in range(3)]
    bands = [
        [Job("black", band, arm, seed) for band in ("15-35", "35-60", "60-85") for arm in (USUAL, BOTH)]
        for seed in range(3)
    ]
    remedies = [
        [Job("black", band, arm, seed) for band in ("15-35", "35-60", "60-85") for arm in (MASK, FILL)]
        for seed in range(3)
    ]
    thin = [[Job("black", "thin", arm, seed) for arm in (BOTH, "area", "sample")] for seed in range(3)]
    order = [*main, native[0], kinds[0], bands[0], *outside, native[1], kinds[1], native[2], kinds[2], bands[1]]
    order += [thin[0], bands[2], thin[1], thin[2], *remedies]
    return [job for part in order for job in part]
