"""The study's results as JSON and as tables: means over the seeds, 95 % intervals, differences seed by seed."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.mask_study import train
from benchmarks.mask_study.census import census
from benchmarks.mask_study.conditions import ARMS, BASE, BOTH, FILL, FOUR, MASK, OUTSIDE, USUAL, VOIDS, Job
from benchmarks.mask_study.judge import REAL, colours, distances, on_mesh, void_of

# Student's t, two-sided 95 %, by the number of seeds.
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
Figures = dict[str, float | None]  # of one run, by name
Runs = dict[Job, Figures]


def figures(row: dict[str, Any], job: Job, folder: Path) -> Figures:
    """The measures of one run."""
    inside, border = row["errors"][max(row["errors"], key=int)]
    found: Figures = {"inside": inside, "border": border, "filled": row["filled"][0], "filled_border": row["filled"][1]}
    return found | (void_of(job, folder) or {"void": None, "mesh": None, "much": None})


def interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and half of its 95 % confidence interval over the seeds (Student's t); None for one seed."""
    if len(values) < 2:
        return values[0], None
    return statistics.mean(values), T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def reached(curve: dict[str, list[float]], error: float) -> float | None:
    """Steps after which the error inside is down to `error`, between two measurements on a straight line."""
    points = sorted((int(step), inside) for step, (inside, _) in curve.items())
    for (before, high), (after, low) in zip([(0, float("inf")), *points], points, strict=False):
        if low <= error:
            return float(after) if high == float("inf") else before + (after - before) * (high - error) / (high - low)
    return None


class Study:
    """What FOLDER holds: rows as they were written, and the figures of each run."""

    def __init__(self, folder: Path, rows: dict[Job, dict[str, Any]]) -> None:
        self.folder, self.rows = folder, rows
        self.figures: Runs = {job: figures(row, job, folder) for job, row in rows.items()}
        for real in {Job(job.void, job.band, REAL, job.seed) for job in rows}:
            self.figures[real] = dict(void_of(real, folder) or {})

    def seeds(self, void: str, band: str, *arms: str) -> list[int]:
        """The seeds that all of these arms have been run with."""
        return sorted(
            set.intersection(
                *({j.seed for j in self.figures if (j.void, j.band, j.arm) == (void, band, arm)} for arm in arms)
            )
        )

    def summary(self, void: str, band: str, arm: str, against: str = USUAL) -> dict[str, Any]:
        """Each measure's mean and half interval, and the same of its difference to another arm with the same seeds."""
        seeds = self.seeds(void, band, arm)
        found: dict[str, Any] = {"seeds": len(seeds)}
        names = list(self.figures[Job(void, band, arm, seeds[0])]) if seeds else []
        paired = self.seeds(void, band, arm, against) if against != arm else []
        for name in names:
            mine = [self.figures[Job(void, band, arm, seed)][name] for seed in seeds]
            if any(value is None for value in mine):
                continue
            found[name] = interval([value for value in mine if value is not None])
            other = [self.figures[Job(void, band, against, seed)].get(name) for seed in paired]
            if paired and all(value is not None for value in other):
                pairs = [(self.figures[Job(void, band, arm, s)][name], o) for s, o in zip(paired, other, strict=True)]
                found[f"{name}_difference"] = interval(
                    [one - o for one, o in pairs if one is not None and o is not None]
                )
        return found

    def steps_saved(self, void: str, band: str, masked: str, unmasked: str) -> dict[str, Any]:
        """Steps until the masked arm has the unmasked one's final error inside; judged on the void that both have."""
        found = []
        for seed in self.seeds(void, band, masked, unmasked):
            one, other = (self.rows[Job(void, band, arm, seed)]["errors"] for arm in (masked, unmasked))
            found.append(reached(one, other[max(other, key=int)][0]))
        known = [steps for steps in found if steps is not None]
        return {"runs": len(found), "reached": len(known), "steps": interval(known) if known else None}

    def to_json(self, games: Path | None) -> dict[str, Any]:
        """Everything, as benchmarks/results/mask_study.json has it; `games` as for `census`."""
        main = [BASE, *FOUR]
        complete = self.seeds("black", "all", *main)
        settings = {"resolution": train.RESOLUTION, "steps": train.STEPS, "drawn": train.DRAWN}
        found: dict[str, Any] = {"settings": settings, "runs": len(self.rows)}
        found["main"] = {arm: self.summary("black", "all", arm) for arm in (REAL, *main, OUTSIDE)}
        if len(complete) > 1:
            found["renders"] = distances(self.folder, complete)
            seams = {arm: [on_mesh(self.folder, seed)[arm]["seams"] for seed in complete] for arm in (REAL, *main)}
            found["seams"] = {arm: interval(values) for arm, values in seams.items()}
        found["steps"] = {
            "mask against none, void kept": self.steps_saved("black", "all", MASK, USUAL),
            "mask against none, void filled": self.steps_saved("black", "all", BOTH, FILL),
        }
        found["voids"] = {void: {arm: self.summary(void, "all", arm) for arm in (REAL, USUAL, MASK)} for void in VOIDS}
        found["native"] = {arm: self.summary("found", "flat", arm) for arm in (REAL, *FOUR)}
        shown = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours(self.folder, "found", "flat"))
        found["native colours"] = list(shown) if found["native"][USUAL]["seeds"] else []
        bands = ("15-35", "35-60", "60-85")
        found["bands"] = {band: {arm: self.summary("black", band, arm) for arm in (REAL, *FOUR)} for band in bands}
        thin = {arm: self.summary("black", "thin", arm, against=BOTH) for arm in (BOTH, "area", "sample")}
        found["thin"] = thin
        found["census"] = census(self.folder, games)
        found["rows"] = [vars(job) | self.rows[job] | self.figures[job] for job in self.rows]
        return found


def tables(found: dict[str, Any]) -> str:
    """The same to read. A condition without a run is left out."""
    size, steps = found["settings"]["resolution"], found["settings"]["steps"]
    renders = found.get("renders")
    lines = [
        f"nano, LoRA of rank 16, {size} px, batch 4, {steps} steps; {found['runs']} runs. ± is the 95 % interval over "
        "the seeds (Student's t); differences are to the usual way, seed by seed. The error is judged on held-out "
        "atlases with the void that the arm was trained on, so it compares arms with the same one; with "
        "the void filled, all.",
        "",
        "## Void painted black, covered to 15 to 85 %",
        "",
        "| arm | seeds | void on the surface | by the mesh's surface | textures with over 10 % of it | error inside "
        "| error inside, void filled | error at the border | seams | KID of renders |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, one in found["main"].items():
        if one["seeds"]:
            seam = found.get("seams", {}).get(arm)
            kid = renders[arm]["kid"] if renders and arm in renders else None
            cells = [arm, str(one["seeds"])]
            cells += [percent(one.get(name)) for name in ("void", "mesh", "much")]
            cells += [plain(one.get(name)) for name in ("inside", "filled", "border")]
            cells += [plain(seam, 2), "" if kid is None else f"{kid[0]:.3f} ({kid[1]:.3f} to {kid[2]:.3f})"]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Differences to the usual way:", "", "| arm | seeds | void on the surface | by the mesh's surface |"]
    lines[-1] += " error inside | error inside, void filled | error at the border | KID of renders |"
    lines.append("|---|---|---|---|---|---|---|---|")
    for arm, one in found["main"].items():
        if arm not in (USUAL, REAL) and "void_difference" in one:
            kid = renders[arm]["difference"] if renders and arm in renders else None
            cells = [arm, str(one["seeds"]), points(one["void_difference"]), points(one["mesh_difference"])]
            cells += [own_difference(one, arm, "inside"), plain(one.get("filled_difference"))]
            cells += [own_difference(one, arm, "border")]
            cells += ["" if kid is None else f"{kid[0]:.3f} ({kid[1]:.3f} to {kid[2]:.3f})"]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Steps until the masked arm is where the unmasked one ends (error inside):", ""]
    for name, one in found["steps"].items():
        if one["runs"]:
            reach = f"; {plain(one['steps'], 0)} steps" if one["steps"] else ""
            lines.append(f"- {name}: {one['reached']} of {one['runs']} runs reach it{reach}")
    for title, group in (
        ("Other voids (the arms that fill it are those above)", found["voids"]),
        ("Black void, by covered share of the training textures", found["bands"]),
        (f"Flat voids as the files have them ({', '.join(found['native colours'])})", {"flat": found["native"]}),
        ("Thin islands and unlike coverage: differences to mask and fill", {"thin": found["thin"]}),
    ):
        # Of a void without a colour there is nothing to say about real textures.
        rows = [
            (what, arm, one)
            for what, arms in group.items()
            for arm, one in arms.items()
            if one["seeds"] and ("void" in one or "inside" in one)
        ]
        if not rows:
            continue
        lines += ["", f"## {title}", "", "| void, textures | arm | seeds | void on the surface | difference |"]
        lines[-1] += " error inside | difference | error inside, void filled | difference |"
        lines.append("|---|---|---|---|---|---|---|---|---|")
        for what, arm, one in rows:
            cells = [what, arm, str(one["seeds"]), percent(one.get("void"))]
            cells += ["" if arm == REAL else points(one.get("void_difference"))]
            cells += [plain(one.get("inside")), own_difference(one, arm, "inside")]
            cells += [plain(one.get("filled")), plain(one.get("filled_difference"))]
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## Voids of real atlases, at 256 px", ""]
    shares = ("one colour", "contrast below 5 levels", "half or more of one colour (flat)")
    lines.append(f"| kind | atlases with a void of 5 % or more | {' | '.join(shares)} | common colours of flat ones |")
    lines.append("|---|---|---|---|---|---|")
    for kind, one in found["census"].items():
        parts = [f"{100 * one[name]:.0f} %" for name in ("constant", "little contrast", "flat")]
        common = ", ".join(f"{colour} {100 * share:.0f} %" for colour, share in list(one["colours"].items())[:3])
        lines.append("| " + " | ".join([kind, str(one["atlases"]), *parts, common]) + " |")
    return "\n".join(lines) + "\n"


def own_difference(one: dict[str, Any], arm: str, name: str) -> str:
    """The difference of an error on the void that the arm was trained on; nothing where the arm beside has another."""
    known = (ARMS[arm][0] == ARMS[USUAL][0] or arm in ("area", "sample")) if arm in ARMS else arm != REAL
    return plain(one.get(f"{name}_difference")) if known else ""


def plain(value: Any, digits: int = 4) -> str:
    """`0.1234 ± 0.0012`; nothing for None."""
    if value is None:
        return ""
    mean, half = value
    return f"{mean:.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def percent(value: Any) -> str:
    """`12.3 ± 0.4 %`."""
    return "" if value is None else f"{plain([None if v is None else 100 * v for v in value], 1)} %"


def points(value: Any) -> str:
    """`-12.3 ± 0.4 points`, of shares."""
    return "" if value is None else f"{plain([None if v is None else 100 * v for v in value], 1)} points"
