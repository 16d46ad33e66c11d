"""The table of benchmarks/step.py, from its record."""

from statistics import median
from typing import Any

COLUMNS = {
    "bare": "bare U-Net step",
    "texdiff": "texdiff, cached",
    "texdiff-windows": "texdiff, windows of larger atlases",
    "texdiff-first-run": "texdiff, first run",
    "texdiff-uncached": "texdiff, data.cache off",
    "diffusers": "diffusers' script",
}


def markdown(record: dict[str, Any]) -> str:
    """Figures of every part, side by side."""
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [
        "# What a training step costs",
        "",
        f"`python -m benchmarks.step`, {record['machine']}, {record['threads']} threads, float32; {packages}. LoRA of "
        "rank 8. Times are in seconds; memory is the highest resident size.",
    ]
    for part in record["parts"].values():
        lines += ["", *_part(part)]
    return "\n".join(lines) + "\n"


def _part(part: dict[str, Any]) -> list[str]:
    programs, floor = part["programs"], part["floor"]
    there = [name for name in COLUMNS if name in programs]
    bare, ours = median(programs["bare"]["turns"]), median(programs["texdiff"]["turns"])
    memory = programs["bare"]["peak_memory"]
    whole = {name: programs[name] for name in there if name != "texdiff-first-run"}  # that one is short, and profiled
    timed = {name: program for name, program in whole.items() if program.get("processor")}
    rows: dict[str, dict[str, str]] = {
        "step, median": {n: f"{median(p['turns']):.3g}" for n, p in whole.items()},
        "fastest to slowest": {n: f"{min(p['turns']):.3g}-{max(p['turns']):.3g}" for n, p in whole.items()},
        "median / bare": {n: f"{median(p['turns']) / bare:.3f}" for n, p in whole.items()},
        "processor seconds, median": {n: f"{median(p['processor']):.3g}" for n, p in timed.items()},
        "median / texdiff, cached": {n: f"{median(p['turns']) / ours:.2f}" for n, p in whole.items()},
        "launch to end of first step": {n: f"{programs[n]['first_step']:.1f}" for n in there if n != "bare"},
        "of that, accelerate's launcher": {n: f"{programs[n]['launcher']:.1f}" for n in there if n != "bare"},
        f"launch to exit, {part['steps']} steps": {n: f"{p['total']:.1f}" for n, p in whole.items() if n != "bare"},
        "covered latent cells a second": {
            n: f"{part['covered_cells'][n] / median(p['turns']):.0f}" for n, p in whole.items()
        },
        "and a processor second": {
            n: f"{part['covered_cells'][n] / median(p['processor']):.0f}" for n, p in timed.items()
        },
        "peak memory, GB": {n: f"{p['peak_memory'] / 1e9:.2f}" for n, p in whole.items()},
        "peak memory / bare": {n: f"{p['peak_memory'] / memory:.3f}" for n, p in whole.items()},
    }
    turns = (
        f"{part['turns']} steps" if part["turn_steps"] == 1 else f"{part['turns']} turns of {part['turn_steps']} steps"
    )
    return [
        f"## {part['title']}: {part['resolution']} px, batch {part['batch']}",
        "",
        f"{floor['flops'] / 1e12:.3g}e12 operations a step; this machine multiplies matrices at "
        f"{floor['flops_per_second'] / 1e9:.0f}e9 a second, which gives {floor['seconds']:.3g} s. Medians over {turns} "
        f"after the first; the first run of texdiff encodes {part['textures']} textures before its first step, and "
        "each run of it takes the base's held-out loss there: 8 forward passes for each texture that is held out. "
        f"Measured in {part['seconds'] / 60:.0f} minutes; load average before it {part['load_average_before']}, other "
        f"work took {part['share_of_cores_used_by_others']:.0%} of the cores meanwhile.",
        "",
        f"| | {' | '.join(COLUMNS[name] for name in there)} |",
        f"|---|{'---|' * len(there)}",
        *(f"| {row} | {' | '.join(cells.get(name, '') for name in there)} |" for row, cells in rows.items() if cells),
        "",
        *_profile(programs["texdiff-first-run"]),
    ]


def _profile(program: dict[str, Any]) -> list[str]:
    step = sum(program["turns"]) / len(program["turns"])
    seconds = {**program["profile"], "outside operations": step - sum(program["profile"].values())}
    return [
        f"What texdiff's step is made of (profiled, {step:.3g} s):",
        "",
        f"| {' | '.join(seconds)} |",
        f"|{'---|' * len(seconds)}",
        f"| {' | '.join(f'{value / step:.1%}' for value in seconds.values())} |",
    ]
