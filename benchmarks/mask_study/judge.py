"""What the runs have drawn, measured: void on the surface, seams, and the distance of renders to those of real ones."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.mask_study.conditions import BASE, FLAT, FOUR, Job
from benchmarks.mask_study.datasets import Image8, Mask, atlases, chosen
from benchmarks.mask_study.train import RESOLUTION, drawn_atlases, drawn_numbers
from texdiff.data.mesh_index import find_mesh
from texdiff.data.record import Record, texels_of
from texdiff.evaluation.metrics.distribution import kid, kid_difference
from texdiff.evaluation.metrics.features import load_extractor
from texdiff.evaluation.metrics.on_mesh import on_meshes
from texdiff.render.void import Colour, common_colours, void_on_surface
from texdiff.uv.gutter import fill
from texdiff.uv.void import flat_void

REAL = "real textures"
MUCH = 0.1  # of a texture's covered texels


@cache
def held_out(folder: Path, band: str) -> list[tuple[Record, Image8, Mask, NDArray[np.float32] | None]]:
    """Record, texture, mask and the mesh's surface per texel of each held-out atlas of a band, at the runs' size."""
    found = []
    for number in chosen(folder, "validation", band):
        record = atlases(folder, "validation")[number][0]
        image, mask = record.model_input(RESOLUTION, "fill")
        texture = texels_of(image)
        found.append((record, texture, mask, record.density(RESOLUTION) if record.surface is not None else None))
    return found


@cache
def colours(folder: Path, void: str, band: str) -> tuple[Colour, ...]:
    """The common colours of the void that the runs were trained on; of noise and of other atlases there is none."""
    if void in FLAT:
        return (FLAT[void],)
    if void != "found":
        return ()
    everything = atlases(folder, "train")
    return tuple(common_colours([flat_void(*everything[n][1:]) for n in chosen(folder, "train", band)]))


def void_of(job: Job, folder: Path) -> dict[str, float] | None:
    """Means over a run's drawn atlases: share of the covered texels and of the mesh's surface with a colour of the void
    (`void`, `mesh`), and share of the atlases that have more than MUCH of it (`much`)."""
    flat = colours(folder, job.void, job.band)
    if not flat:
        return None
    known = held_out(folder, job.band)
    numbers = drawn_numbers(job.seed, len(known))
    drawn = [known[number][1] for number in numbers] if job.arm == REAL else drawn_atlases(job, folder)
    texels = [void_on_surface(one, known[n][2], flat) for one, n in zip(drawn, numbers, strict=True)]
    mesh = [
        void_on_surface(one, known[n][2], flat, density)
        for one, n in zip(drawn, numbers, strict=True)
        if (density := known[n][3]) is not None
    ]
    much = float(np.mean([share > MUCH for share in texels]))
    return {"void": float(np.mean(texels)), "mesh": float(np.mean(mesh)), "much": much}


def on_mesh(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Of the main setting's arms, nano itself and the real textures, with one seed: features [n, D] of the renders
    of their atlases, and the mean seam error relative to inner edges. Kept in FOLDER/on_mesh."""
    file = folder / "on_mesh" / f"{seed}.npz"
    arms = [REAL, BASE, *FOUR]
    if not file.exists():
        known = held_out(folder, "all")
        numbers = drawn_numbers(seed, len(known))
        masks = [known[n][2] for n in numbers]
        sets = [np.stack([known[n][1] for n in numbers])]
        for arm in arms[1:]:
            drawn = drawn_atlases(Job("black", "all", arm, seed), folder)
            sets.append(np.stack([fill(one, mask) for one, mask in zip(drawn, masks, strict=True)]))
        names = [known[n][0].name for n in numbers]
        uses = {name: use for name in names if (use := find_mesh(name)) is not None}
        found = on_meshes(names, sets, uses, load_extractor(), f"seed {seed}")
        arrays = {f"features {arm}": np.stack(one.features) for arm, one in zip(arms, found, strict=True)}
        seams = {arm: one.seams.metrics()["relative_mean"] for arm, one in zip(arms, found, strict=True)}
        file.parent.mkdir(exist_ok=True)
        np.savez(file, **arrays, **{f"seams {arm}": np.array(seam) for arm, seam in seams.items()})
    with np.load(file) as kept:
        return {arm: {"features": kept[f"features {arm}"], "seams": float(kept[f"seams {arm}"])} for arm in arms}


def distances(folder: Path, seeds: list[int]) -> dict[str, Any]:
    """KID of the renders of all seeds together to those of the real textures, and its difference to the usual way's."""
    by_seed = [on_mesh(folder, seed) for seed in seeds]
    every = {arm: np.concatenate([one[arm]["features"] for one in by_seed]) for arm in by_seed[0]}
    real = np.unique(every[REAL], axis=0)  # an atlas that two seeds stand for is one
    found: dict[str, Any] = {"renders": len(every[BASE]), "references": len(real)}
    for arm in (BASE, *FOUR):
        found[arm] = {"kid": list(kid(every[arm], real))}
        found[arm]["difference"] = list(kid_difference(every[arm], every[FOUR[0]], real))
    return found
