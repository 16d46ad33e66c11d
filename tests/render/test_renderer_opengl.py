"""Pictures beside OpenGL's: the same mesh, the same place to look from, a texture with the GPU's own mip levels.

OpenGL is an independent oracle for perspective, depth and trilinear look-up. Where a machine has no EGL (on Debian
libegl1 and libgl1-mesa-dri, which draws on the CPU) these tests are skipped; drawing itself needs none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from texdiff.render.renderer import MeshRenderer

moderngl = pytest.importorskip("moderngl")

VERTEX = """#version 330
uniform mat4 camera; in vec3 place; in vec2 uv; in vec3 normal; out vec2 at; out vec3 facing; out vec3 seen;
void main() { gl_Position = camera * vec4(place, 1); at = uv; facing = normal; seen = place; }"""
FRAGMENT = """#version 330
uniform sampler2D paint; uniform vec3 eye, light; in vec2 at; in vec3 facing, seen; out vec4 colour;
void main() {
  vec3 n = normalize(facing); if (dot(n, eye - seen) < 0) n = -n;
  colour = vec4(texture(paint, at).rgb * min(0.4 + 0.72 * max(dot(n, light), 0), 1), 1);
}"""
SIDE = 128


@pytest.fixture(scope="module")
def gl() -> Any:
    try:
        return moderngl.create_standalone_context(backend="egl")
    except Exception as error:
        pytest.skip(f"no EGL here ({error})")


def torus(folder: Path, texture: np.ndarray, repeats: float) -> tuple[Path, np.ndarray]:
    """A torus as OBJ, with normals, its texture repeated around it; and its triangles' [place, uv, normal], [N, 8]."""
    rings, sides = 48, 24
    u, v = np.meshgrid(np.arange(rings + 1) / rings, np.arange(sides + 1) / sides, indexing="ij")
    a, b = 2 * np.pi * u, 2 * np.pi * v
    normal = np.stack([np.cos(a) * np.cos(b), np.sin(b), np.sin(a) * np.cos(b)], -1)
    place = np.stack([np.cos(a), 0 * a, np.sin(a)], -1) * 0.68 + 0.32 * normal
    corners = np.concatenate([place, np.stack([repeats * u, v], -1), normal], -1)
    grid = np.arange((rings + 1) * (sides + 1)).reshape(rings + 1, sides + 1)
    one, two, three, four = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    faces = np.concatenate([np.stack(f, -1).reshape(-1, 3) for f in ((one, two, three), (one, three, four))])
    flat = corners.reshape(-1, 8)
    lines = ["mtllib torus.mtl", "usemtl paint"]
    for row in flat:
        lines += ["v {} {} {}".format(*row[:3]), "vt {} {}".format(*row[3:5]), "vn {} {} {}".format(*row[5:])]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}/{i + 1}" for i in face) for face in faces]
    (folder / "torus.obj").write_text("\n".join(lines) + "\n")
    (folder / "torus.mtl").write_text("newmtl paint\nmap_Kd paint.png\n")
    Image.fromarray(texture).save(folder / "paint.png")
    return folder / "torus.obj", flat[faces.reshape(-1)]


def draw_with_opengl(gl: Any, corners: np.ndarray, texture: np.ndarray, turn: np.ndarray, far_off: float) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3] of triangles [N, 8], from 2 x 2 samples a pixel, averaged in linear light."""
    side = 2 * SIDE
    near, far, field = 0.1, 20.0, np.tan(np.radians(15))
    projection = np.diag([1 / field, 1 / field, (far + near) / (near - far), 0])
    projection[2, 3], projection[3, 2] = 2 * far * near / (near - far), -1
    view = np.eye(4)
    view[:3, :3], view[2, 3] = turn, -far_off
    program = gl.program(vertex_shader=VERTEX, fragment_shader=FRAGMENT)
    program["camera"].write((projection @ view).T.astype("f4").tobytes())
    program["eye"].value = tuple(np.array([0, 0, far_off]) @ turn)
    program["light"].value = tuple(np.array([-0.37, 0.46, 0.81]) @ turn)
    paint = gl.texture(texture.shape[1::-1], 3, texture[::-1].tobytes(), internal_format=0x8C41, alignment=1)  # SRGB8
    paint.build_mipmaps()
    paint.filter = (moderngl.LINEAR_MIPMAP_LINEAR, moderngl.LINEAR)
    paint.use()
    buffer = gl.framebuffer([gl.renderbuffer((side, side), 3, dtype="f4")], gl.depth_renderbuffer((side, side)))
    buffer.use()
    background = (240 / 255 + 0.055) / 1.055
    gl.clear(*[background**2.4] * 3)
    gl.enable(moderngl.DEPTH_TEST)
    vertices = gl.vertex_array(
        program, [(gl.buffer(corners.astype("f4").tobytes()), "3f 2f 3f", "place", "uv", "normal")]
    )
    vertices.render()
    linear = np.frombuffer(buffer.read(components=3, dtype="f4"), "f4").reshape(SIDE, 2, SIDE, 2, 3)[::-1, ::-1]
    mean = linear.mean(axis=(1, 3))
    return np.rint(255 * np.where(mean <= 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)).astype(np.uint8)


@pytest.mark.parametrize(("size", "repeats"), [(64, 2), (1024, 6)])
def test_looks_as_opengl_draws_it(gl: Any, tmp_path: Path, size: int, repeats: float) -> None:
    """From magnified texels (level 0) to levels of detail about 4, tiled, with parts of it behind others."""
    texture = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    mesh, corners = torus(tmp_path, texture, repeats)
    views = MeshRenderer(mesh, ((35, 20), (140, 60)), size=SIDE)
    for ours, (yaw, pitch) in zip(views.draw(), ((35, 20), (140, 60)), strict=True):
        y, p = np.radians(-yaw), np.radians(pitch)
        about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
        theirs = draw_with_opengl(gl, corners, texture, about_x @ about_y, views.distance)
        difference = np.abs(ours.astype(int) - theirs).max(axis=2)
        assert (ours != 240).any(axis=2).mean() > 0.3
        assert difference.mean() < 0.5  # of 255 levels
        assert np.percentile(difference, 95) <= 1
        assert np.percentile(difference, 99) <= 3  # outlines, where a sample falls on one side or the other
