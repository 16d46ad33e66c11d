"""`texdiff compare`: meshes with textures that the base samples beside what it samples with a run's LoRA."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from texdiff.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from texdiff.inference.target import RetextureTarget
    from texdiff.training.run import Run

_LINE = 28  # pixels of a row of text
_INK = (34, 34, 34)


def compare(run: Path, meshes: Path, /, *, output: Path, count: int = 4, guidance_scale: float = 7.5) -> None:
    """Show the base's textures and the LoRA's side by side on meshes.

    A row a mesh: two views each with the base's texture, with the LoRA's, and with its own. Base and LoRA start from
    the same noise, and under the layout net that the LoRA was trained under, if there was one. The first mesh turns
    with both in a .webp of the same name. Raises InputError where `run` is not a LoRA run or no mesh can be drawn for.

    Args:
        run: Folder of a LoRA run; the base is the one that it was trained on.
        meshes: Folder of meshes, or one mesh. The prompts are the captions that texdiff prepare gives them.
        output: Image to write, a .png or .jpg.
        count: Meshes to show: those of a captions.jsonl or .csv first, in its order, then by name.
        guidance_scale: Weight of the prompt (classifier-free guidance); 1 is without guidance.
    """
    import numpy as np
    from PIL import Image

    from texdiff.evaluation.turning import write_turning
    from texdiff.inference.layout_net import choose_layout, load_layout
    from texdiff.inference.sampler import load_pipeline, own_size, sample_batch
    from texdiff.inference.target import finish_texture, read_seams
    from texdiff.models.lora_files.find import lora_file
    from texdiff.models.lora_files.load import add_lora, follow_training
    from texdiff.training.run import Run

    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--output {output}: must end in .png or .jpg")
    if count < 1:
        raise InputError(f"--count must be at least 1 (got {count})")
    try:
        base = Run(run).settings()["model"]["pretrained_model_name_or_path"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{run}: not a run's folder ({one_line(error)}); name the output_dir of a run") from None
    lora = lora_file(run)
    chosen, targets = _choose(meshes, count)
    output.parent.mkdir(parents=True, exist_ok=True)
    seams = [read_seams(target) for target in targets]
    pipeline = load_pipeline(base)
    pipeline.set_progress_bar_config(disable=True)
    follow_training(pipeline, lora)  # so that the base reads the same of each prompt
    net, _ = choose_layout(None, lora, has_mesh=True)
    layout = None if net is None else load_layout(net, pipeline, lora)[0]

    def draw(name: str) -> "list[NDArray[np.uint8]]":
        drawn = []
        for (_, prompt), target, edges in zip(tqdm(chosen, name, unit="texture"), targets, seams, strict=True):
            under, inputs = pipeline, {}
            if layout is not None:
                own = layout.on(target, own_size(pipeline))
                under = own.around(pipeline)
                inputs = own.inputs(under)
            drawn.append(
                finish_texture(target, sample_batch(under, [prompt], [0], 30, guidance_scale, **inputs)[0], edges)
            )
        return drawn

    before = draw("base")
    add_lora(pipeline, lora)
    after = draw("with the LoRA")
    rows = []
    for (mesh, prompt), target, plain, tuned in zip(chosen, targets, before, after, strict=True):
        views = _views(mesh, target.parts, [plain, tuned, None])
        rows += [_caption([prompt], 3 * views[0].shape[1]), np.hstack(views)]
    width = rows[0].shape[1]
    heads = _caption(["base", "with the LoRA", "its own texture"], width)
    table = figures(Run(run), targets, before, after)
    Image.fromarray(np.vstack([heads, *rows])).save(output)
    turning = output.with_suffix(".webp")
    write_turning(chosen[0][0], [before[0], after[0]], targets[0].parts, turning)
    print(table, f"see {output} and {turning}", sep="\n")


def _choose(meshes: Path, count: int) -> "tuple[list[tuple[Path, str]], list[RetextureTarget]]":
    """The meshes to show, each with its prompt, and as they are to be drawn for. Those that cannot be are named."""
    from texdiff.data.prepare.sources import find_assets
    from texdiff.inference.target import read_target

    if not meshes.exists():
        raise InputError(f"{meshes}: no such file or folder; name a mesh, or a folder of meshes")
    with tempfile.TemporaryDirectory() as spool:
        found, files = find_assets([str(meshes)], None, Path(spool))
    assets = [asset for asset in found if asset.mask is None or asset.problem]  # no images
    order = {name: number for number, name in enumerate(files[0].credits)} if files else {}
    chosen: list[tuple[Path, str]] = []
    targets: list[RetextureTarget] = []
    for asset in sorted(assets, key=lambda asset: order.get(asset.label, len(order))):
        if len(chosen) == count:
            break
        try:
            if asset.problem:
                raise InputError(f"{asset.path}: {asset.problem}")
            targets.append(read_target(asset.path))
            chosen.append((asset.path, asset.captions[0]))
        except InputError as error:
            print(f"left out: {error}")
    if not chosen:
        raise InputError(f"{meshes}: no mesh in it can be drawn for; give meshes with UV coordinates")
    return chosen, targets


def _views(
    mesh: Path, parts: "Iterable[str]", textures: "Sequence[NDArray[np.uint8] | None]"
) -> "list[NDArray[np.uint8]]":
    """Two views of the mesh, side by side, with each of the textures, or as it is: uint8 [h, w, 3]."""
    import numpy as np

    from texdiff.render.renderer import MeshRenderer

    views = MeshRenderer(mesh, ((35.0, 20.0), (215.0, 20.0)))
    return [np.hstack([*views.draw(texture, parts)]) for texture in textures]


def _caption(texts: list[str], width: int) -> "NDArray[np.uint8]":
    """A white strip with the texts at equal distances."""
    import cv2
    import numpy as np

    strip = np.full((_LINE, width, 3), 255, np.uint8)
    for number, text in enumerate(texts):
        left = 8 + number * width // len(texts)
        cv2.putText(strip, text, (left, _LINE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    return strip


def figures(
    run: "Run",
    targets: "Sequence[RetextureTarget]",
    before: "Sequence[NDArray[np.uint8]]",
    after: "Sequence[NDArray[np.uint8]]",
) -> str:
    """A table of the run's own figures at its first and last validation, and of what is seen on the meshes."""
    from texdiff.evaluation.metrics.seams import seam_error
    from texdiff.render.void import void_on_surface
    from texdiff.training.voids import void_colours
    from texdiff.uv.coverage import coverage_mask
    from texdiff.uv.seams.edges import MeshEdges

    lines = [line for line in run.metrics() if "validation_loss" in line]
    rows: list[tuple[str, Sequence[str]]] = []
    for name, key in (("held-out masked loss", "validation_loss"), ("layout gain", "layout_gain")):
        if found := [line[key] for line in lines if key in line]:
            rows.append((name, [f"{value:.4f}" for value in (found[0], found[-1])]))
    both = (before, after)
    if colours := void_colours(run):
        masks = [
            coverage_mask(target.triangles, texture.shape[:2]) for target, texture in zip(targets, before, strict=True)
        ]
        shares = [[void_on_surface(t, m, colours) for t, m in zip(ts, masks, strict=True)] for ts in both]
        rows.append(("void on the surface", [f"{sum(share) / len(share):.1%}" for share in shares]))
    edges = [MeshEdges(target.read, target.parts) for target in targets]
    errors = [[seam_error(e, t).metrics()["mean"] for e, t in zip(edges, ts, strict=True)] for ts in both]
    seen = [[value for value in found if value is not None] for found in errors]
    if all(seen):
        rows.append(("seams, CIEDE2000", [f"{sum(found) / len(found):.1f}" for found in seen]))
    width = max((len(name) for name, _ in rows), default=0)
    heading = f"{'':<{width}}  {'base':>9}  {'with the LoRA':>13}"
    return "\n".join([heading, *(f"{name:<{width}}  {values[0]:>9}  {values[1]:>13}" for name, values in rows)])
