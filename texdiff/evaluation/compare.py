"""`texdiff compare`: meshes with textures that the base samples beside what it samples with a run's LoRA."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from texdiff.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LINE = 28  # pixels of a row of text
_INK = (34, 34, 34)


def compare(run: Path, meshes: Path, /, *, output: Path, count: int = 4, guidance_scale: float = 7.5) -> None:
    """Show the base's textures and the LoRA's side by side on meshes.

    A row a mesh: two views each with the base's texture, with the LoRA's, and with its own. Base and LoRA start from
    the same noise, and under the layout net that the LoRA was trained under, if there was one. Raises InputError where
    `run` is not a LoRA run or `meshes` has no captions.

    Args:
        run: Folder of a LoRA run; the base is the one that it was trained on.
        meshes: Folder of meshes with a captions.jsonl, whose captions are the prompts.
        output: Image to write.
        count: Meshes to show, from the first caption on.
        guidance_scale: Weight of the prompt (classifier-free guidance); 1 is without guidance.
    """
    import numpy as np
    from PIL import Image

    from texdiff.inference.layout_net import choose_layout, load_layout
    from texdiff.inference.sampler import load_pipeline, own_size, sample_batch
    from texdiff.inference.target import read_target
    from texdiff.models.lora_files.find import lora_file
    from texdiff.models.lora_files.load import add_lora, follow_training
    from texdiff.training.run import Run

    try:
        base = Run(run).settings()["model"]["pretrained_model_name_or_path"]
        captions = [json.loads(line) for line in (meshes / "captions.jsonl").read_text("utf-8").splitlines()]
        chosen = [(meshes / row["mesh"], row["text"]) for row in captions[:count]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run}, {meshes}: not a run and a folder of meshes with captions ({one_line(error)})"
        ) from None
    lora = lora_file(run)
    pipeline = load_pipeline(base)
    pipeline.set_progress_bar_config(disable=True)
    follow_training(pipeline, lora)  # so that the base reads the same of each prompt
    net, _ = choose_layout(None, lora, has_mesh=True)
    layout = None if net is None else load_layout(net, pipeline, lora)[0]

    def draw() -> "list[NDArray[np.uint8]]":
        drawn = []
        for mesh, prompt in chosen:
            under, inputs = pipeline, {}
            if layout is not None:
                own = layout.on(read_target(mesh), own_size(pipeline))
                under = own.around(pipeline)
                inputs = own.inputs(under)
            drawn += sample_batch(under, [prompt], [0], 30, guidance_scale, **inputs)
        return drawn

    before = draw()
    add_lora(pipeline, lora)
    after = draw()
    rows = []
    for (mesh, prompt), plain, tuned in zip(chosen, before, after, strict=True):
        views = _views(mesh, [plain, tuned, None])
        rows += [_caption([prompt], 3 * views[0].shape[1]), np.hstack(views)]
    width = rows[0].shape[1]
    heads = _caption(["base", "with the LoRA", "its own texture"], width)
    losses = _losses(Run(run).metrics())
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack([_caption([losses], width), heads, *rows])).save(output)
    print(f"{losses}; see {output}")


def _views(mesh: Path, textures: "Sequence[NDArray[np.uint8] | None]") -> "list[NDArray[np.uint8]]":
    """Two views of the mesh, side by side, with each of the textures, or as it is: uint8 [h, w, 3]."""
    import numpy as np

    from texdiff.inference.target import finish_texture, read_seams, read_target
    from texdiff.render.renderer import MeshRenderer

    views, target = MeshRenderer(mesh, ((35.0, 20.0), (215.0, 20.0))), read_target(mesh)
    seams = read_seams(target)
    filled = [None if texture is None else finish_texture(target, texture, seams) for texture in textures]
    return [np.hstack([*views.draw(texture, target.parts)]) for texture in filled]


def _caption(texts: list[str], width: int) -> "NDArray[np.uint8]":
    """A white strip with the texts at equal distances."""
    import cv2
    import numpy as np

    strip = np.full((_LINE, width, 3), 255, np.uint8)
    for number, text in enumerate(texts):
        left = 8 + number * width // len(texts)
        cv2.putText(strip, text, (left, _LINE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    return strip


def _losses(lines: list[dict[str, Any]]) -> str:
    """The held-out loss of both."""
    found = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    if not found:
        return "no held-out textures"
    (_, first), (step, last) = found[0], found[-1]
    return f"held-out masked loss: {first:.4f} before, {last:.4f} after {step} steps"
