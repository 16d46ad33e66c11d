"""Views of a mesh for a captioner, in a worker: points on the surface, the nearest wins. No GPU, no window."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.data.reading import write_png
from texdiff.uv.mesh import read_parts
from texdiff.uv.part import Part
from texdiff.uv.picture import PictureError, read_picture

VIEWS = "views.png"  # in an entry's folder
_SIDE = 256  # pixels of a view
_DRAWN = 2 * _SIDE  # drawn larger, then averaged
_POINTS = 600_000  # each 2 x 2 drawn pixels: some ten for every pixel of a mesh that fills the view
_YAWS = (35.0, 215.0)  # degrees: from the front and right, and from behind
_PITCH = 20.0
_GREY = 170  # of what has no texture
_WHITE = 255


@dataclass(frozen=True)
class ViewJob:
    """Draw the mesh at `path` into the entry at `folder`."""

    path: Path
    folder: Path


def draw_views(job: ViewJob) -> None:
    """Do one ViewJob: two views side by side, PNG."""
    write_png(render(read_parts(job.path)), job.folder / VIEWS)


def render(parts: list[Part]) -> NDArray[np.uint8]:
    """Views of the parts, y up, orthographic, side by side: uint8 [256, 512, 3]."""
    places, normals, colours = _sample(parts)
    views = []
    for yaw in _YAWS:
        turned = places @ _rotation(yaw, _PITCH).T
        turned -= (turned.max(axis=0) + turned.min(axis=0)) / 2
        turned /= max(float(np.abs(turned[:, :2]).max()) * 1.05, 1e-12)
        columns, rows = (
            np.clip((c + 1) / 2 * _DRAWN, 0, _DRAWN - 1).astype(int) for c in (turned[:, 0], -turned[:, 1])
        )
        # Light from the viewer's upper left; both sides of a surface are lit, as meshes may be thin.
        light = np.abs(normals @ _rotation(yaw, _PITCH).T @ np.array([-0.4, 0.5, 0.77]))
        shaded = colours * (0.4 + 0.6 * np.minimum(light, 1))[:, None]
        order = np.argsort(turned[:, 2], kind="stable")  # the nearest is written last
        picture = np.full((_DRAWN, _DRAWN, 3), _WHITE, np.uint8)
        down = np.minimum(rows[order, None] + [0, 0, 1, 1], _DRAWN - 1)
        right = np.minimum(columns[order, None] + [0, 1, 0, 1], _DRAWN - 1)
        picture[down.ravel(), right.ravel()] = np.repeat(shaded[order].astype(np.uint8), 4, axis=0)
        views.append(cv2.resize(picture, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    return np.asarray(np.concatenate(views, axis=1), np.uint8)


def _sample(parts: list[Part]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Points spread evenly over the surface of all parts: places, normals, colours, each float64 [N, 3]."""
    corners = [
        (part.vertices @ transform[:3, :3].T + transform[:3, 3])[part.faces]
        for part in parts
        for transform in part.transforms
    ]
    owners = [part for part in parts for _ in part.transforms]
    areas = [np.nan_to_num(np.linalg.norm(_cross(triangles), axis=1)) for triangles in corners]
    total = sum(float(area.sum()) for area in areas) or 1.0
    gathered: list[tuple[NDArray[np.float64], ...]] = []
    for part, triangles, area in zip(owners, corners, areas, strict=True):
        count = int(_POINTS * area.sum() / total)
        if count == 0:
            continue
        # Evenly spaced along the area, then by the R2 sequence (two irrational steps) within the triangle.
        index = np.searchsorted(np.cumsum(area), (np.arange(count) + 0.5) / count * area.sum())
        index = np.minimum(index, len(area) - 1)
        steps = np.arange(count)[:, None] * np.array([0.7548776662466927, 0.5698402909980532]) % 1
        steps[steps.sum(axis=1) > 1] *= -1
        steps %= 1
        weights = np.column_stack([1 - steps.sum(axis=1), steps])
        normal = _cross(triangles)[index]
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        gathered.append((np.einsum("nc,ncx->nx", weights, triangles[index]), normal, _colours(part, index, weights)))
    if not gathered:
        return np.zeros((1, 3)), np.zeros((1, 3)), np.full((1, 3), float(_WHITE))
    places, normals, colours = (np.concatenate(arrays) for arrays in zip(*gathered, strict=True))
    return places, normals, colours


def _colours(part: Part, index: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    grey = np.full((len(index), 3), float(_GREY))
    if part.uv is None or part.material.picture is None:
        return grey
    try:
        texture = read_picture(part.material.picture.source)
    except PictureError:
        return grey
    uv = np.einsum("nc,ncx->nx", weights, part.triangles()[index]) % 1
    uv = np.nan_to_num(uv)
    height, width = texture.shape[:2]
    rows = np.minimum(((1 - uv[:, 1]) * height).astype(int), height - 1)
    columns = np.minimum((uv[:, 0] * width).astype(int), width - 1)
    return texture[rows, columns].astype(np.float64)


def _cross(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    """Turns the scene so that the viewer, who looks along -z, sees it from that yaw (about y) and pitch, in degrees."""
    y, p = np.radians(-yaw), np.radians(pitch)
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    return about_x @ about_y
