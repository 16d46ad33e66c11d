"""Draw meshes without a GPU or a window: Embree finds what each pixel sees, textures are looked up as a GPU would.

    views = MeshRenderer(Path("chair.glb"))
    as_it_is, with_another = views.draw(), views.draw(texture)      # uint8 [V, H, W, 3]

It needs no system library, and gives the same bytes every time.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from texdiff.errors import InputError
from texdiff.render.geometry import MeshGeometry
from texdiff.render.material import RenderMaterial
from texdiff.render.sampling import Float, Footprint, Level, mip_levels, sample, to_linear, to_srgb
from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.atlases import read_atlases

View = tuple[float, float]  # yaw about the upward y axis (0 sees the front, +z; 90 the side at +x) and pitch, degrees
Rays = NDArray[np.float64]

VIEWS: tuple[View, ...] = ((35.0, 20.0), (125.0, 20.0), (215.0, 20.0), (305.0, 20.0))

_HALF_FIELD = float(np.tan(np.radians(15.0)))  # the field of view is 30 degrees each way
_MARGIN = 1.05
_SUPERSAMPLING = 2  # rays per pixel, each way
_LIGHT = np.array([-0.37, 0.46, 0.81])  # from over the viewer's left shoulder, so that all views are lit alike
_AMBIENT, _DIFFUSE = 0.4, 0.72  # a surface that faces the viewer shows its texels nearly as they are
_BACKGROUND = 240
_LAYERS = 16  # of cut-out surfaces that a ray goes through at most


def turntable(frames: int = 24, pitch: float = 20.0) -> tuple[View, ...]:
    """Views once around, for the frames of an animation."""
    return tuple((35.0 + 360.0 * frame / frames, pitch) for frame in range(frames))


class _Seen(NamedTuple):
    """What the N rays of a view that hit something see."""

    pixel: NDArray[np.intp]  # [N] of the supersampled view
    part: NDArray[np.intp]  # [N] number of the part
    at: Footprint  # [N] of its texture
    light: Float  # [N] 0-1


class MeshRenderer:
    """A mesh seen in perspective from fixed places. What each pixel sees is worked out once, for any texture.

    Args:
        mesh: GLB, glTF, OBJ, PLY or DAE. Every part is drawn as its material says; glass is left out, and textures
            with transparent texels are cut out.
        views: yaw and pitch of each, in degrees; the scale is the same in all of them.
        size: side of the square images, in pixels.

    Raises:
        InputError: the mesh cannot be read, or has no surface.
    """

    def __init__(self, mesh: Path, views: Sequence[View] = VIEWS, size: int = 256) -> None:
        self.path, self.size = Path(mesh), size
        parts = read_parts(self.path)
        materials = {id(part.material): RenderMaterial(part.material) for part in parts}
        self._materials = [materials[id(part.material)] for part in parts]
        self._number = {part.key: number for number, part in enumerate(parts)}
        self._mapped = [part.key for part in parts if part.uv is not None]
        self._geometry = MeshGeometry(parts, visible=[not material.transparent for material in self._materials])
        if not len(self._geometry.corners):
            raise InputError(f"{self.path}: has no surface that can be drawn")
        self._scene = EmbreeScene(robust=True)
        TriangleMesh(self._scene, self._geometry.corners.astype(np.float32))
        turns = [_rotation(yaw, pitch) for yaw, pitch in views]
        self.distance = max(self._distance(turn) for turn in turns)
        self._seen = [self._look_from(turn, self.distance) for turn in turns]

    def draw(self, texture: NDArray[np.uint8] | None = None, parts: Iterable[str] | None = None) -> NDArray[np.uint8]:
        """The images, uint8 [V, H, W, 3]: as the file has it, or with `texture` (uint8 [h, w, 3]) instead of another.

        `parts` are the keys (`Atlas.parts`) of the parts to draw with it; by default those that share the texture of
        the largest mesh area, or all with UV coordinates where the mesh has no texture.
        """
        chosen: list[str] = []
        if texture is not None:
            chosen = self._main_parts() if parts is None else list(parts)
        numbers = {self._number[key] for key in chosen}
        levels = [] if texture is None else mip_levels(texture)
        return np.stack([self._paint(seen, numbers, levels) for seen in self._seen])

    def _main_parts(self) -> list[str]:
        atlases = read_atlases(self.path).atlases
        return list(max(atlases, key=lambda atlas: float(atlas.mesh_area.sum())).parts) if atlases else self._mapped

    def _paint(self, seen: _Seen, retextured: set[int], levels: list[Level]) -> NDArray[np.uint8]:
        side = self.size * _SUPERSAMPLING
        image = np.full((side * side, 3), to_linear(np.array(_BACKGROUND, np.uint8)), np.float32)
        for number, here in _groups(seen.part):
            material, at = self._materials[number], seen.at.of(here)
            colours = sample(levels, at, material.wrap) if number in retextured else material.colours(at)
            image[seen.pixel[here]] = colours * seen.light[here, None]
        # Averaged in linear light, as a GPU resolves its samples.
        cells = image.reshape(self.size, _SUPERSAMPLING, self.size, _SUPERSAMPLING, 3)
        return to_srgb(cells.mean(axis=(1, 3)))

    def _distance(self, turn: NDArray[np.float64]) -> float:
        """The distance of the viewer from the middle for all corners to be in the image."""
        x, y, z = turn @ self._geometry.corners.reshape(-1, 3).T
        return float((z + np.maximum(np.abs(x), np.abs(y)) * _MARGIN / _HALF_FIELD).max())

    def _look_from(self, turn: NDArray[np.float64], distance: float) -> _Seen:
        side = self.size * _SUPERSAMPLING
        across = ((np.arange(side) + 0.5) / side * 2 - 1) * _HALF_FIELD
        x, y = np.meshgrid(across, -across)
        directions = np.stack([x.ravel(), y.ravel(), np.full(side * side, -1.0)], axis=1) @ turn
        eye = np.array([0, 0, distance]) @ turn
        pixel, face, weights, depth = self._first_opaque(eye, directions)
        direction, geometry = directions[pixel], self._geometry
        normal = geometry.flat_normals[face]
        # A pixel further along the image, the ray meets the same plane this much further (Igehy, "Tracing Ray
        # Differentials", 1999).
        steps = 2 * _HALF_FIELD / side * np.array([[1, 0, 0], [0, -1, 0]]) @ turn
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            facing = np.einsum("nx,nx->n", normal, direction)
            moved = [depth[:, None] * (step - direction * (normal @ step / facing)[:, None]) for step in steps]
            along_x, along_y = (np.einsum("nux,nx->nu", geometry.uv_gradient[face], m) for m in moved)
        at = Footprint(geometry.uv_at(face, weights), along_x.astype(np.float32), along_y.astype(np.float32))
        smooth = geometry.normals_at(face, weights) @ turn.T
        towards = np.where(facing < 0, 1, -1)  # thin meshes are seen from both sides, and lit on both
        light = np.clip(_AMBIENT + _DIFFUSE * np.maximum(smooth @ _LIGHT * towards, 0), 0, 1)
        return _Seen(pixel, geometry.part[face], at, light.astype(np.float32))

    def _first_opaque(self, eye: Rays, directions: Rays) -> tuple[NDArray[np.intp], NDArray[np.intp], Rays, Rays]:
        """Of the rays that hit something: number, face hit, barycentric weights [N, 3], distance in `directions`."""
        rays = np.arange(len(directions))
        depth = np.zeros(len(directions))
        found: list[tuple[NDArray, ...]] = []
        for _ in range(_LAYERS):
            if not len(rays):
                break
            start = eye + directions[rays] * depth[rays, None]
            hit = self._scene.run(start.astype(np.float32), directions[rays].astype(np.float32), output=True)
            there = hit["primID"] >= 0
            rays, face = rays[there], hit["primID"][there].astype(np.intp)
            depth[rays] += hit["tfar"][there]
            u, v = hit["u"][there].astype(np.float64), hit["v"][there].astype(np.float64)
            weights = np.stack([1 - u - v, u, v], axis=1)
            opaque = self._opaque(face, weights)
            found.append((rays[opaque], face[opaque], weights[opaque]))
            rays = rays[~opaque]
            depth[rays] *= 1 + 1e-5
        pixel, face, weights = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return pixel, face, weights, depth[pixel]

    def _opaque(self, face: NDArray[np.intp], weights: Rays) -> NDArray[np.bool_]:
        """Whether there is something to see where these faces are hit, or a hole in a cut-out texture: [N]."""
        opaque = np.ones(len(face), bool)
        parts = self._geometry.part[face]
        for number, here in _groups(parts):
            if self._materials[number].alpha is not None:
                opaque[here] = self._materials[number].opaque(self._geometry.uv_at(face[here], weights[here]))
        return opaque


def _groups(numbers: NDArray[np.intp]) -> Iterable[tuple[int, NDArray[np.intp]]]:
    """Each number, with the places where it occurs."""
    order = np.argsort(numbers, kind="stable")
    values, starts = np.unique(numbers[order], return_index=True)
    return zip(values.tolist(), np.split(order, starts[1:]), strict=True)


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    """Turns the mesh so that the viewer, who looks along -z, sees it from that yaw and pitch, in degrees."""
    y, p = np.radians(-yaw), np.radians(pitch)
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    return about_x @ about_y
