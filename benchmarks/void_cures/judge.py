"""The drawings measured, and the table."""

import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.special import stdtrit

from benchmarks.mask_study.table import interval
from benchmarks.void_cures.runs import DRAWN, SAMPLERS, Images, drawn_file, held_out, numbers
from texdiff.data.mesh_index import find_mesh
from texdiff.evaluation.metrics.seams import seam_error
from texdiff.render.color import ciede2000, to_lab
from texdiff.render.sampling import to_linear
from texdiff.uv.gutter import fill
from texdiff.uv.seams.edges import MeshEdges

BAND = 8  # texels beside the void: a latent cell
LEAST = 100  # pairs of texels of a kind that say something
ERRORS = {"error_inside": "error inside", "error_border": "at the border", "error_outside": "outside"}
DRAWINGS = {"void": "void from fill", "contrast": "contrast", "border": "contrast at the border", "seams": "seams"}


@cache
def edges(name: str) -> MeshEdges | None:
    use = find_mesh(name)
    return None if use is None else MeshEdges(use.path, use.parts)


def judge(drawn: Sequence[Images], seed: int, folder: Path) -> dict[str, list[float]]:
    """Of each atlas.

    `void`: mean CIEDE2000 between what the void holds and what the islands would fill it with. `contrast`: that between
    neighbouring covered texels; `border`: the same where one of the two is within BAND of the void, relative to those
    farther inside. `seams`: that across cut edges of the mesh. What an atlas does not have is not a number.
    """
    known = held_out(folder)
    found: dict[str, list[float]] = {name: [] for name in DRAWINGS}
    for texture, number in zip(drawn, numbers(seed, len(known)), strict=True):
        record, _, mask, _ = known[number]
        filled = fill(texture, mask)
        lab = to_lab(to_linear(texture))
        found["void"].append(float(ciede2000(lab, to_lab(to_linear(filled)))[~mask].mean()))
        depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        differences, depths = [], []
        for a, b in (((slice(None), slice(1, None)), (slice(None), slice(-1))), ((slice(1, None),), (slice(-1),))):
            pair = mask[a] & mask[b]
            differences.append(ciede2000(lab[a], lab[b])[pair])
            depths.append(np.minimum(depth[a], depth[b])[pair])
        difference, inner = np.concatenate(differences), np.concatenate(depths) > BAND
        found["contrast"].append(float(difference.mean()))
        enough = inner.sum() >= LEAST and (~inner).sum() >= LEAST
        found["border"].append(float(difference[~inner].mean() / difference[inner].mean()) if enough else float("nan"))
        seams = seam_error(mesh, filled).seams if (mesh := edges(record.name)) is not None else np.zeros(0)
        found["seams"].append(float(seams.mean()) if len(seams) else float("nan"))
    return found


def table(rows: list[dict[str, Any]], folder: Path) -> tuple[dict[str, Any], str]:
    """Means, and differences to no cure at all with 95 % intervals: of errors over the seeds, of drawings over the
    atlases of all seeds, each atlas with its own caption and noise."""
    found: dict[str, Any] = {}
    known, seeds = held_out(folder), sorted({row["seed"] for row in rows})
    real = [judge([known[n][1] for n in numbers(seed, len(known))], seed, folder) for seed in seeds]
    by = {(row["trained"], row["cure"], row["seed"]): row for row in rows}
    heads = ["trained", "in training", "in sampling", "seeds", *ERRORS.values(), *DRAWINGS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    means = {name: float(np.nanmean([value for one in real for value in one[name]])) for name in DRAWINGS}
    found["real textures"] = means
    lines.append(
        "| real textures | " + "| " * (len(ERRORS) + 3) + " | ".join(f"{v:.2f}" for v in means.values()) + " |"
    )
    for what, cure in dict.fromkeys(key[:2] for key in by):
        its = sorted(key[2] for key in by if key[:2] == (what, cure))
        for sampler in SAMPLERS:
            entry: dict[str, Any] = {"seeds": len(its)}
            for name in ERRORS:
                values = [by[what, cure, seed][name] for seed in its]
                entry[name] = {"mean": statistics.mean(values)}
                if cure != "nothing":
                    pairs = zip(values, [by[what, "nothing", seed][name] for seed in its], strict=True)
                    entry[name]["difference"] = interval([a - b for a, b in pairs])
            own = [judged(drawn_file(folder, what, cure, sampler, seed), seed, folder) for seed in its]
            plain = [judged(drawn_file(folder, what, "nothing", SAMPLERS[0], seed), seed, folder) for seed in its]
            for name in DRAWINGS:
                values, before = (np.concatenate([one[name] for one in each]) for each in (own, plain))
                entry[name] = {"mean": float(np.nanmean(values))}
                if (cure, sampler) != ("nothing", SAMPLERS[0]):
                    change = (values - before)[np.isfinite(values - before)]
                    half = float(stdtrit(len(change) - 1, 0.975)) * change.std(ddof=1) / len(change) ** 0.5
                    entry[name]["difference"] = float(change.mean()), float(half)
            found[f"{what}, {cure}, {sampler}"] = entry
            cells = [_said(entry[name], 4) for name in ERRORS] if sampler == SAMPLERS[0] else ["" for _ in ERRORS]
            cells += [_said(entry[name], 2) for name in DRAWINGS]
            lines.append(f"| {what} | {cure} | {sampler} | {len(its)} | {' | '.join(cells)} |")
    return found, "\n".join(lines) + "\n"


@cache
def judged(file: Path, seed: int, folder: Path) -> dict[str, list[float]]:
    """`judge` of a file of drawings."""
    return judge(np.split(cv2.imread(str(file))[..., ::-1], DRAWN, axis=1), seed, folder)


def _said(entry: dict[str, Any], digits: int) -> str:
    """The mean, and in brackets the difference with half of its interval where there are several."""
    said = f"{entry['mean']:.{digits}f}"
    if "difference" in entry:
        mean, half = entry["difference"]
        said += f" ({mean:+.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}") + ")"
    return said
