"""The picture of the study: the usual way beside texdiff, by the same captions and from the same noise, on meshes."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.mask_study.conditions import BOTH, USUAL, Job
from benchmarks.mask_study.datasets import Image8
from benchmarks.mask_study.judge import held_out
from benchmarks.mask_study.train import drawn_atlases, drawn_numbers
from texdiff.data.mesh_index import find_mesh
from texdiff.errors import InputError
from texdiff.render.renderer import MeshRenderer
from texdiff.uv.gutter import fill

COLUMNS, SIDE, LINE = 6, 240, 26  # meshes; pixels of a view, and of a row of text
FREE = "CC-0"  # part of the paths of models in the public domain: a picture that is passed on shows these
VIEW = (35.0, 20.0)


def draw_picture(folder: Path, seeds: list[int], output: Path) -> None:
    """A column a mesh, a row an arm. Not chosen by how they look: of the held-out atlases in the public domain those
    that cover most of their meshes, each with the first seed that drew it."""
    known = held_out(folder, "all")
    found, seen = [], set()
    for seed in seeds:
        for place, number in enumerate(drawn_numbers(seed, len(known))):
            use = find_mesh(known[number][0].name) if number not in seen else None
            seen.add(number)
            if use is not None and any(FREE in part for part in use.path.parts):
                found.append((use, seed, place, number))
    found.sort(key=lambda one: -one[0].share)
    columns: list[Image8] = []
    shown = set()
    for use, seed, place, number in found:
        record, _, mask, _ = known[number]
        if len(columns) == COLUMNS or use.path in shown:
            continue
        try:
            renderer = MeshRenderer(use.path, (VIEW,), SIDE)
        except InputError:
            continue
        shown.add(use.path)
        views = [
            renderer.draw(fill(drawn_atlases(Job("black", "all", arm, seed), folder)[place], mask), use.parts)[0]
            for arm in (USUAL, BOTH)
        ]
        columns.append(np.vstack([text(record.captions[0][:30], SIDE), *views]))
    if not columns:
        raise SystemExit(f"{folder}: none of the drawn atlases has a mesh with {FREE} in its path")
    body = np.hstack(columns)
    names = [text("", 2 * LINE), *(side_text(name) for name in ("the usual way", "mask and fill"))]
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack([np.vstack([names[0][:, :LINE], *names[1:]]), body])).save(output, quality=88)


def text(words: str, width: int) -> Image8:
    """Words on a white strip [LINE, width]."""
    strip = np.full((LINE, width, 3), 255, np.uint8)
    cv2.putText(strip, words, (6, LINE - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (34, 34, 34), 1, cv2.LINE_AA)
    return strip


def side_text(words: str) -> Image8:
    """The same upwards, [SIDE, LINE]."""
    return np.ascontiguousarray(np.rot90(text(words, SIDE)))
