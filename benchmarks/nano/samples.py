"""What the U-Net and the layout net look at: textures that fill the picture, and atlases of meshes, with captions.

    python -m benchmarks.nano.samples [--count N]

paints them on all cores and encodes none: to be run beside the autoencoder's training. A third are full pictures; the
others are atlases, whose looks are functions of places on the object, each with the position map of its mesh.
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.nano.loop import OUT, precision, save, tell
from benchmarks.nano.pictures import on_all_cores
from texdiff.demo.looks import Look, describe, paint_look, random_look
from texdiff.demo.patterns import caption, paint, random_pattern
from texdiff.demo.shapes import SHAPES, Chart, Mesh, box, disc, lathe, pack
from texdiff.diffusion.mask import downsample
from texdiff.models.nano import make_vae
from texdiff.uv.gutter import fill

SEED = 1000
"""Apart from the autoencoder's seeds, so that these are pictures of their own."""
COUNT, SIDE = 18000, 256
FULL = 3
"""One in so many fills the picture."""


def assembly(rng: np.random.Generator) -> list[Chart]:
    """Two to five boxes and turned pieces wherever they fall: an object without a name but "model"."""
    charts: list[Chart] = []
    for _ in range(rng.integers(2, 6)):
        place, size = rng.uniform(-0.6, 0.6, 3), rng.uniform(0.15, 0.9, 3)
        if rng.random() < 0.6:
            charts += box(size, place)
            continue
        radius = size[0] / 2 * (0.5 + 0.5 * rng.random(6))
        heights = np.linspace(-0.5, 0.5, 6) * size[1]
        segments = int(rng.integers(8, 21))
        pieces = [lathe(np.column_stack([radius, heights]), segments)]
        pieces += [disc(radius[0], heights[0], segments, False), disc(radius[-1], heights[-1], segments, True)]
        charts += [Chart(piece.vertices + place, piece.flat, piece.faces) for piece in pieces]
    return charts


OBJECTS: dict[str, Callable[[np.random.Generator], list[Chart]]] = {**SHAPES, "model": assembly}


def random_mesh(rng: np.random.Generator) -> tuple[str, Mesh]:
    """The name of a shape and one of its kind; a third use a part of the texture only."""
    names = [*SHAPES, "model", "model", "model"]
    shape = names[rng.integers(len(names))]
    mesh = pack(OBJECTS[shape](rng), rng, gap=float(rng.uniform(0.016, 0.05)))
    if rng.random() < 1 / 3:
        scale = rng.uniform(0.55, 0.95)
        mesh = Mesh(mesh.vertices, mesh.uv * scale + rng.uniform(0, 1 - scale, 2), mesh.faces, mesh.island)
    return shape, mesh


def drawn(seed: int, number: int) -> tuple[str, Mesh, Look, np.random.Generator]:
    """Shape, mesh and look of the atlas with this number, and the generator that paints it."""
    rng = np.random.default_rng((seed, number))
    shape, mesh = random_mesh(rng)
    return shape, mesh, random_look(rng, shape), rng


def text(seed: int, number: int) -> str:
    """The caption of the sample with this number."""
    if number % FULL == 0:
        return caption(random_pattern(np.random.default_rng((seed, number))))
    shape, _, look, _ = drawn(seed, number)
    return describe(look, shape)


def _paint(array: NDArray[np.uint8], seed: int, number: int) -> None:
    """Picture and position map, beside each other; a full picture has no map."""
    if number % FULL == 0:
        rng = np.random.default_rng((seed, number))
        array[number, :, :SIDE] = paint(random_pattern(rng), SIDE, rng)
        return
    _, mesh, look, rng = drawn(seed, number)
    picture, positions = paint_look(look, mesh, SIDE, rng)
    array[number, :, :SIDE] = fill(picture, positions.any(axis=2))
    array[number, :, SIDE:] = np.rint(positions * 255)


def painted_samples(count: int, seed: int = SEED) -> NDArray[np.uint8]:
    """Pictures and position maps beside each other, uint8 [count, 256, 512, 3], in a file; void filled."""
    return on_all_cores(f"samples-{seed}-{count}", (count, SIDE, 2 * SIDE, 3), _paint, seed)


def trained_vae(device: str) -> torch.nn.Module:
    """The autoencoder of outputs/nano/vae.pt, frozen, with the very weights that are shipped."""
    vae = make_vae().to(device).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(OUT / "vae.pt", map_location=device)["model"])
    return vae


def position_pictures(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The position maps of the samples as pictures, uint8 [count, 256, 256, 3], void filled."""
    maps = [sample[:, SIDE:] for sample in samples]
    return np.stack([fill(shown, shown.any(axis=2)) if shown.any() else shown for shown in maps])


def encoded(kind: str, count: int, device: str, make: Callable[[], NDArray[np.uint8]]) -> torch.Tensor:
    """Latents of the `count` pictures that `make` gives, uint8 [count, 256, 256 or more, 3]: float16
    [count, 4, 32, 32], not scaled.

    Kept in outputs/nano, and made anew when the autoencoder's training has gone on since.
    """
    step = torch.load(OUT / "vae.pt", map_location="cpu", mmap=True)["step"]
    name = f"{kind}-{step}-{count}.pt"
    if not (OUT / name).exists():
        # bfloat16 is a quarter of the time on a CPU that has it, and changes a latent by 0.3 % of their deviation.
        vae, found = trained_vae(device).to(memory_format=torch.channels_last), []
        pictures = make()
        with torch.no_grad(), precision(device):
            for part in tqdm(np.array_split(np.arange(count), -(-count // 16)), name, mininterval=10):
                x = torch.from_numpy(pictures[part, :, :SIDE]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                x = x.contiguous(memory_format=torch.channels_last)
                found.append(vae.encode(x).latent_dist.mean.half().cpu())
        save(name, {"latents": torch.cat(found)})
    tell(f"{count} {kind} encoded")
    return torch.load(OUT / name)["latents"].to(device)


def cells(samples: NDArray[np.uint8]) -> torch.Tensor:
    """Covered latent cells, bool [count, 32, 32]; all of a full picture's."""
    found = []
    for number, sample in enumerate(samples):
        covered = torch.from_numpy(sample[:, SIDE:].any(axis=2)) | (number % FULL == 0)
        found.append(downsample(covered[None, None].float(), (SIDE // 8, SIDE // 8))[0, 0] > 0.5)
    return torch.stack(found)


def captions(count: int, seed: int = SEED) -> list[str]:
    """Those of the samples. Kept in outputs/nano, since each takes making its mesh."""
    path = OUT / f"captions-{seed}-{count}.json"
    if not path.exists():
        path.write_text(json.dumps([text(seed, number) for number in range(count)]), "utf-8")
    found: list[str] = json.loads(path.read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    OUT.mkdir(parents=True, exist_ok=True)
    painted_samples(parser.parse_args().count)


if __name__ == "__main__":
    main()
