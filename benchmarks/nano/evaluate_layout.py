"""Whether nano knows its mesh: textures drawn for meshes and two-colour captions that no training has seen.

    python -m benchmarks.nano.evaluate_layout [--model FOLDER] [--count 144]

Each is drawn with the map of its mesh, without a map, and with the map of another mesh. FOLDER is a pipeline's, with
the layout net in FOLDER/controlnet; the shipped one where left out. Writes outputs/nano/layout.json and layout.png: 24
rows of what the look is, and the three drawings. Beside these the table has the painted textures themselves, and
`repainted` ones, which have all that caption and mesh say, but borders of their own: a painter who makes no mistake.

    colours: share of the atlases whose two regions are, by most of their texels, in the two colours asked for
    islands: share of the islands with the colour that most of the island should have
    r2: of the variance of the drawn colour, over squares of 8 x 8 texels, what a linear function of the look's own
        field explains; where the field is wrong, nothing
    ..._said: the same where the look's accent may begin anywhere: by whichever of these fields explains the drawing
        best, as no caption says how wide its bands are or how far down its top reaches
    seams: mean CIEDE2000 across the seams, and over that of edges inside the islands
    void: share of covered texels in flat patches of black, of the looks that have no black in them

Layout gain, as in `texdiff evaluate`: by how much the error of the predicted noise on covered cells is larger with the
map of another mesh than with its own, and with no map, each with its 95 % interval over the atlases.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.nano.loop import OUT
from benchmarks.nano.samples import SIDE, drawn
from texdiff.demo.looks import Look, accent_share, describe, island_map, paint_look
from texdiff.demo.make import write_glb
from texdiff.demo.palette import COLOURS
from texdiff.demo.shapes import Mesh
from texdiff.diffusion.loss import masked_error
from texdiff.diffusion.mask import downsample
from texdiff.evaluation.layout_gain import ratio_interval
from texdiff.evaluation.metrics.seams import SeamError, seam_error
from texdiff.models.exports import LAYOUT_NET
from texdiff.models.nano import nano_folder
from texdiff.render.void import void_on_surface
from texdiff.uv.gutter import fill
from texdiff.uv.meshes import read_parts
from texdiff.uv.seams.edges import MeshEdges

SEED = 9000
"""Apart from the seeds of all trainings."""
ARMS = ("own", "text", "other")
NAMES = list(COLOURS)
Texels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A mesh, a look in two colours, and how it should come out."""

    shape: str
    mesh: Mesh
    look: Look
    painted: Texels
    positions: NDArray[np.float32]
    islands: NDArray[np.int_]
    share: NDArray[np.float32]

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self.positions.any(axis=2)


def cases(count: int) -> list[Case]:
    """The first `count` with two colours, each of which covers at least a tenth of the surface."""
    found: list[Case] = []
    number = 0
    while len(found) < count:
        number += 1
        shape, mesh, look, rng = drawn(SEED, number)
        if look.accent is None:
            continue
        painted, positions = paint_look(look, mesh, SIDE, rng)
        islands = island_map(mesh, SIDE)
        mask = positions.any(axis=2)
        share = accent_share(look, positions, islands)
        if 0.1 < share[mask].mean() < 0.9:
            found.append(Case(shape, mesh, look, fill(painted, mask), positions, islands, share))
    return found


def repainted(case: Case) -> Texels:
    """Another texture of the same caption: its accent begins elsewhere."""
    rng = np.random.default_rng(SEED + int(1e6 * case.look.limit))
    look = replace(case.look, limit=float(rng.uniform()))
    return fill(paint_look(look, case.mesh, SIDE, rng)[0], case.mask)


def draw(folder: Path, made: Sequence[Case], arm: str, steps: int, guidance: float) -> list[Texels]:
    """A texture for each case, in one of ARMS; the same noise in all."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    if arm != "text":
        net = ControlNetModel.from_pretrained(folder / LAYOUT_NET, torch_dtype=torch.float32)
        pipeline = StableDiffusionControlNetPipeline(
            **pipeline.components, controlnet=net, requires_safety_checker=False
        )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    textures: list[Texels] = []
    for first in tqdm(range(0, len(made), 8), arm):
        part = range(first, min(first + 8, len(made)))
        maps = {}
        if arm != "text":
            shown = [made[i if arm == "own" else (i + 1) % len(made)].positions for i in part]
            maps["image"] = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2)
        images = pipeline(
            [describe(made[i].look, made[i].shape) for i in part],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(i) for i in part],
            output_type="np",
            height=SIDE,
            width=SIDE,
            **maps,
        ).images
        textures += [
            fill(image, made[i].mask) for i, image in zip(part, np.rint(images * 255).astype(np.uint8), strict=True)
        ]
    return textures


@torch.no_grad()
def layout_gains(folder: Path, made: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Layout gain against another mesh's map, and against none: the figure, and where its interval begins and ends."""
    net = ControlNetModel.from_pretrained(folder / LAYOUT_NET, torch_dtype=torch.float32)
    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    times = torch.linspace(50, 950, 8).long()
    maps = torch.from_numpy(np.stack([case.positions for case in made])).permute(0, 3, 1, 2)
    errors, cells = torch.zeros(len(made), len(ARMS)), torch.zeros(len(made))
    for i, case in enumerate(tqdm(made, "layout gain")):
        picture = torch.from_numpy(case.painted.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = pipeline.vae.encode(picture).latent_dist.mean * pipeline.vae.config.scaling_factor
        covered = downsample(torch.from_numpy(case.mask)[None, None].float(), latents.shape[2:])
        tokens = pipeline.tokenizer(
            describe(case.look, case.shape), padding="max_length", max_length=77, return_tensors="pt"
        )
        prompts = pipeline.text_encoder(tokens.input_ids)[0].expand(len(times), -1, -1)
        noise = torch.randn(len(times), *latents.shape[1:], generator=torch.Generator().manual_seed(i))
        noisy = pipeline.scheduler.add_noise(latents.expand_as(noise), noise, times)
        for arm, shown in enumerate((maps[i], None, maps[(i + 1) % len(made)])):
            residuals: dict[str, Any] = {}
            if shown is not None:
                shown = shown.expand(len(times), -1, -1, -1)
                down, middle = net(noisy, times, prompts, shown, return_dict=False)
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            predicted = pipeline.unet(noisy, times, prompts, **residuals).sample
            errors[i, arm] = masked_error(predicted, noise, covered.expand(len(times), -1, -1, -1)).mean()
        cells[i] = covered.sum()
    own = errors[:, 0]
    return {
        arm: dict(
            zip(
                ("gain", "low", "high"),
                ratio_interval((error - own).double().numpy(), cells.double().numpy()),
                strict=True,
            )
        )
        for arm, error in zip(ARMS[1:], errors.T[1:], strict=True)
    }


def colour_of(texels: Texels) -> str:
    """The named colour that is nearest to most of the texels [N, 3]."""
    away = np.abs(texels[:, None] / 255 - np.array(list(COLOURS.values()))).sum(axis=-1)
    return NAMES[np.bincount(away.argmin(axis=1), minlength=len(NAMES)).argmax()]


LIMITS = np.linspace(0, 1, 9)


def as_said(texture: Texels, case: Case) -> Case:
    """The case with that field, of those its caption names, which explains the texture best."""
    looks = [replace(case.look, limit=limit) for limit in LIMITS]
    fields = [replace(case, share=accent_share(look, case.positions, case.islands)) for look in looks]
    return max(fields, key=lambda field: explained(texture, field))


def explained(texture: Texels, case: Case) -> float:
    """R² of the texture's colour on the look's field, over the squares of 8 x 8 texels that are covered by half."""
    weight = _means(case.mask.astype(np.float64))
    used = weight > 0.5
    field = (_means(case.share * case.mask) / np.maximum(weight, 1e-9))[used]
    colours = np.stack(
        [_means(c * case.mask) / np.maximum(weight, 1e-9) for c in np.moveaxis(texture / 255, 2, 0)], -1
    )[used]
    field, colours = field - field.mean(), colours - colours.mean(axis=0)
    if not (field**2).sum() > 0 or not (colours**2).sum() > 0:
        return 0.0
    return float(((field @ colours) ** 2).sum() / (field**2).sum() / (colours**2).sum())


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return cv2.resize(values, (SIDE // 8, SIDE // 8), interpolation=cv2.INTER_AREA)


def places(made: Sequence[Case], textures: Sequence[Texels]) -> dict[str, float]:
    """How far colours are where the cases have them: `colours`, `islands` and `r2` of the module's docstring."""
    both, islands = [], []
    for case, texture in zip(made, textures, strict=True):
        assert case.look.accent is not None
        asked = case.look.pattern.colour, case.look.accent.colour
        regions = case.mask & (case.share < 0.5), case.mask & (case.share >= 0.5)
        both.append(all(r.any() and colour_of(texture[r]) == name for r, name in zip(regions, asked, strict=True)))
        for island in np.unique(case.islands[case.islands >= 0]):
            here = case.islands == island
            accent = bool(case.share[here].mean() >= 0.5)
            if here.sum() >= 64:
                islands.append(colour_of(texture[here & ((case.share >= 0.5) == accent)]) == asked[accent])
    r2 = [explained(texture, case) for case, texture in zip(made, textures, strict=True)]
    return {"colours": float(np.mean(both)), "islands": float(np.mean(islands)), "r2": float(np.mean(r2))}


def figures(made: Sequence[Case], textures: Sequence[Texels], edges: Sequence[MeshEdges]) -> dict[str, float | None]:
    """What the module's docstring lists."""
    said = [as_said(texture, case) for case, texture in zip(made, textures, strict=True)]
    seams = SeamError(np.zeros(0), np.zeros(0))
    for edge, texture in zip(edges, textures, strict=True):
        seams += seam_error(edge, texture)
    across = seams.metrics()
    voids = [
        void_on_surface(texture, case.mask, [(0, 0, 0)])
        for case, texture in zip(made, textures, strict=True)
        if "black" not in describe(case.look, case.shape)
    ]
    return {
        **places(made, textures),
        **{f"{name}_said": value for name, value in places(said, textures).items()},
        "seams": across["mean"],
        "relative_seams": across["relative_mean"],
        "inner": across["inner_mean"],
        "void": float(np.mean(voids)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a pipeline folder; the shipped one where left out")
    parser.add_argument("--count", type=int, default=144)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = cases(given.count)
    with tempfile.TemporaryDirectory() as aside:
        files = [write_glb(Path(aside), str(i), case.mesh, case.painted) for i, case in enumerate(made)]
        edges = [MeshEdges(file, [part.key for part in read_parts(file)]) for file in files]
    folder = given.model or nano_folder()
    drawings = {"painted": [case.painted for case in made], "repainted": [repainted(case) for case in made]}
    drawings |= {arm: draw(folder, made, arm, given.steps, given.guidance) for arm in ARMS}
    table = {name: figures(made, textures, edges) for name, textures in drawings.items()}
    OUT.mkdir(parents=True, exist_ok=True)
    gains = layout_gains(folder, made)
    found = {"atlases": len(made), **table, "layout_gain": gains}
    (OUT / "layout.json").write_text(json.dumps(found, indent=1) + "\n")
    masks = [case.mask[..., None] for case in made[:24]]
    rows = [np.hstack([np.where(m, drawings[name][i], 0) for name in ("painted", *ARMS)]) for i, m in enumerate(masks)]
    half = -(-len(rows) // 2)
    columns = [np.vstack(rows[:half]), np.vstack([*rows[half:], *[np.zeros_like(rows[0])] * (2 * half - len(rows))])]
    cv2.imwrite(str(OUT / "layout.png"), np.hstack(columns)[..., ::-1])
    print(f"{'':<9}" + "".join(f"{name:>16}" for name in next(iter(table.values()))))
    for name, row in table.items():
        print(f"{name:<9}" + "".join(f"{'-' if value is None else format(value, '.3f'):>16}" for value in row.values()))
    for arm, gain in gains.items():
        print(f"layout gain over {arm}: {gain['gain']:.4f} ({gain['low']:.4f} to {gain['high']:.4f})")


if __name__ == "__main__":
    main()
