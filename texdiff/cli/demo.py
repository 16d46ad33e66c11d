"""`texdiff demo`: all commands in a row, on meshes made by code and the bundled base."""

import shlex
import subprocess
import sys
from pathlib import Path

SETTINGS = Path(__file__).parents[1] / "demo/settings.yaml"


def demo(*, output: str = "outputs/demo") -> int:
    """Try it all on meshes made by code, with the bundled base: a few minutes on a CPU.

    Args:
        output: Folder for everything: meshes, dataset, run, textured meshes. A run that is there already is resumed.
    """
    folder = Path(output)
    for program, words in steps(folder):
        print(f"\n$ {shlex.join([*program.split(), *words])}", flush=True)
        command = ["-m", "texdiff.cli"] if program == "texdiff" else program.split()[1:]
        done = subprocess.run([sys.executable, *command, *words])
        if done.returncode:
            return done.returncode
    print("\nLook at:")
    for name, what in LOOK_AT.items():
        print(f"  {folder / name!s:40} {what}")
    return 0


def steps(folder: Path) -> list[tuple[str, list[str]]]:
    """The programs and their arguments."""
    meshes, dataset, run = (str(folder / name) for name in ("meshes", "dataset", "run"))
    drawn = ["--model", "nano", "--lora", run, "--guidance_scale", "3"]
    crate = ["--mesh", f"{meshes}/crate_000.glb", "--prompt", "rainbow planks crate"]
    barrel = ["--mesh", f"{meshes}/barrel_001/barrel_001.obj", "--prompt", "rainbow leather barrel"]
    return [
        ("python -m texdiff.demo.make", [meshes]),
        ("texdiff", ["prepare", meshes, "--output", dataset, "--validation_fraction", "0.15"]),
        ("texdiff", ["train", "--config", str(SETTINGS), "--data.dataset", dataset, "--run.output_dir", run]),
        ("texdiff", ["generate", *drawn, *crate, "--output", str(folder / "crate.glb")]),
        ("texdiff", ["generate", *drawn, *barrel, "--output", str(folder / "barrel.glb")]),
        ("texdiff", ["compare", run, meshes, "--guidance_scale", "3", "--output", str(folder / "before_after.png")]),
    ]


LOOK_AT = {
    "dataset/audit.html": "the textures, their masks, and what was found about them",
    "run/first_batch.png": "what the model saw, and what of it counted",
    "run/report.html": "curves, atlases drawn while training, and their meshes to turn",
    "before_after.png": "meshes with the base's textures and with the LoRA's",
    "before_after.webp": "the first of them, turning",
    "*.glb": "meshes with the textures that the LoRA gives",
}
