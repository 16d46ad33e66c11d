"""Memory of drawing a texture with Stable Diffusion 1.5's shapes, by its size.

    python -m benchmarks.drawing_memory [512 2048 ...]

U-Net, autoencoder and text encoder have their true shapes and random weights, in bfloat16, on the CPU. Every size is a
process of its own, which does what `texdiff generate` does once it has read the model: a texture for a mesh with two
islands, in two denoising steps with guidance, one of which refines; seams closed, void filled, and a GLB written. More
steps, and more windows with something in them, take more time and no more memory: they come one after the other.

Peak memory is the highest resident size from the moment at which the model is there. Writes
benchmarks/results/drawing_memory.json and drawing_memory.md.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import programs

RESULTS = Path(__file__).parent / "results"
# Two quads that share an edge on the mesh and lie apart in a corner of the atlas.
MESH = """v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 2 0 0\nv 2 1 0
vt .02 .02\nvt .06 .02\nvt .06 .1\nvt .02 .1\nvt .08 .02\nvt .12 .02\nvt .12 .1\nvt .08 .1
f 1/1 2/2 3/3 4/4\nf 2/5 5/6 6/7 3/8
"""


def draw(size: int) -> dict[str, float]:
    """Peak memory in bytes and processor seconds of one texture."""
    import torch
    from diffusers import StableDiffusionPipeline

    from benchmarks import true_size
    from texdiff.inference.drawing import Drawing
    from texdiff.inference.retexture import write_mesh
    from texdiff.inference.sampler import Sampling
    from texdiff.inference.target import finish_texture, read_seams, read_target
    from texdiff.models.nano import clip_tokenizer

    torch.set_default_dtype(torch.bfloat16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mesh.obj").write_text(MESH)
        pipeline = StableDiffusionPipeline(
            unet=true_size.unet().eval(),
            vae=true_size.vae().eval(),
            text_encoder=true_size.text_encoder().eval(),
            tokenizer=clip_tokenizer(folder),
            scheduler=true_size.scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        torch.set_default_dtype(torch.float32)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
        start = time.process_time()
        target = read_target(folder / "mesh.obj")
        drawing = Drawing(pipeline, Sampling(2, 7.5), target, size=(size, size), refine_strength=0.5)
        (texture,) = drawing.draw(["an oak chair"], [0])
        assert texture.shape == (size, size, 3)
        texture = finish_texture(target, texture, read_seams(target))
        write_mesh(target, texture, folder / "mesh.glb")
    return {"model": before, "peak": resident("VmHWM"), "processor_seconds": time.process_time() - start}


def resident(key: str) -> float:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(key))


def table(found: dict[str, Any]) -> str:
    """Every size beside the first."""
    first = next(iter(found["sizes"].values()))["peak"]
    lines = [
        "# Memory of drawing with Stable Diffusion 1.5's shapes",
        "",
        f"`python -m benchmarks.drawing_memory`, {found['machine']}, {found['threads']} threads, bfloat16; guidance, "
        "one texture at once, seams closed and a GLB written. The model itself takes the first column.",
        "",
        "| texels | model, GB | peak, GB | peak / first | processor seconds |",
        "|---|---|---|---|---|",
    ]
    for size, one in found["sizes"].items():
        cells = [f"{one['model'] / 1e9:.2f}", f"{one['peak'] / 1e9:.2f}", f"{one['peak'] / first:.3f}"]
        lines.append(f"| {size} x {size} | {' | '.join(cells)} | {one['processor_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[512, 2048])
    parser.add_argument("--one", action="store_true", help="measure in this process, and print it")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(draw(given.sizes[0])))
        return
    found: dict[str, Any] = {
        "machine": programs.machine(),
        "threads": int(programs.ENVIRONMENT["OMP_NUM_THREADS"]),
        "versions": programs.versions(),
        "sizes": {},
    }
    for size in given.sizes:
        output = programs.python("-m", "benchmarks.drawing_memory", "--one", str(size))
        found["sizes"][size] = json.loads(output.splitlines()[-1])
        print(size, found["sizes"][size], file=sys.stderr, flush=True)
    (RESULTS / "drawing_memory.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    (RESULTS / "drawing_memory.md").write_text(text := table(found), "utf-8")
    print(text)


if __name__ == "__main__":
    main()
