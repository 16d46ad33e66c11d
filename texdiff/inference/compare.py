"""Before and after, side by side: meshes that wear what the base draws, and what the base draws with a run's LoRA.

    python -m texdiff.inference.compare RUN MESHES --output FILE.png [--count 4] [--guidance_scale 7.5]

MESHES is a folder with a captions.jsonl; a mesh's caption is its prompt. The base is the one that RUN was trained on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from texdiff.errors import InputError

LINE = 28  # pixels of a row of text
INK = (34, 34, 34)


def before_after(run: Path, meshes: Path, output: Path, count: int = 4, guidance_scale: float = 7.5) -> None:
    """Write the picture: a row a mesh, of two views each with the base's texture, with the LoRA's, and its own.

    Base and LoRA start from the same noise. Raises InputError where RUN is no LoRA run or MESHES has no captions.
    """
    from PIL import Image

    from texdiff.inference.generate import draw, load_pipeline
    from texdiff.models.lora_files.load import add_lora

    try:
        base = yaml.safe_load((run / "config.yaml").read_text("utf-8"))["model"]["pretrained_model_name_or_path"]
        captions = [json.loads(line) for line in (meshes / "captions.jsonl").read_text("utf-8").splitlines()]
        chosen = [(meshes / row["mesh"], row["text"]) for row in captions[:count]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run}, {meshes}: are no run and no folder of meshes with captions ({error})") from None
    pipeline = load_pipeline(base)
    pipeline.set_progress_bar_config(disable=True)
    before = [draw(pipeline, prompt, guidance_scale=guidance_scale) for _, prompt in chosen]
    add_lora(pipeline, run)
    after = [draw(pipeline, prompt, guidance_scale=guidance_scale) for _, prompt in chosen]
    rows = []
    for (mesh, prompt), plain, tuned in zip(chosen, before, after, strict=True):
        views = _views(mesh, [plain, tuned, None])
        rows += [_words([prompt], 3 * views[0].shape[1]), np.hstack(views)]
    width = rows[0].shape[1]
    heads = _words(["base", "with the LoRA", "its own texture"], width)
    losses = _losses(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack([_words([losses], width), heads, *rows])).save(output)
    print(f"{losses}; see {output}")


def _views(mesh: Path, textures: Sequence[NDArray[np.uint8] | None]) -> list[NDArray[np.uint8]]:
    """Two views of the mesh, side by side, with each of the textures, or as it is: uint8 [h, w, 3]."""
    from texdiff.inference.retexture import fill_void, read_wearer
    from texdiff.render.renderer import MeshViews

    views, wearer = MeshViews(mesh, ((35.0, 20.0), (215.0, 20.0))), read_wearer(mesh)
    filled = [None if texture is None else fill_void(wearer, texture) for texture in textures]
    return [np.hstack([*views.draw(texture, wearer.parts)]) for texture in filled]


def _words(texts: list[str], width: int) -> NDArray[np.uint8]:
    """A white strip with the texts at equal distances."""
    import cv2

    strip = np.full((LINE, width, 3), 255, np.uint8)
    for number, text in enumerate(texts):
        left = 8 + number * width // len(texts)
        cv2.putText(strip, text, (left, LINE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA)
    return strip


def _losses(run: Path) -> str:
    """What the held-out textures say of both."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text("utf-8").splitlines())
    found = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    if not found:
        return "no held-out textures"
    (_, first), (step, last) = found[0], found[-1]
    return f"held-out masked loss: {first:.4f} before, {last:.4f} after {step} steps"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m texdiff.inference.compare", description="Before and after.")
    parser.add_argument("run", type=Path, help="folder of a LoRA run")
    parser.add_argument("meshes", type=Path, help="folder of meshes with a captions.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--count", type=int, default=4, help="meshes, from the first caption on (default 4)")
    parser.add_argument("--guidance_scale", type=float, default=7.5, help="weight of the prompt (default 7.5)")
    given = parser.parse_args()
    try:
        before_after(given.run, given.meshes, given.output, given.count, given.guidance_scale)
    except InputError as error:
        print("before_after: error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
