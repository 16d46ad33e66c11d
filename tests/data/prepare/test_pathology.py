"""Files as the world has them: each handled, or set aside with its reason; none ends the run or is clipped unsaid."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.data.prepare import prepare_dataset

QUAD = [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)]  # the lower left quarter
LEFT_BELOW = (slice(32, 64), slice(0, 32))  # rows and columns of that quarter


def obj(path: Path, faces: list[list[tuple[float, float]]], picture: np.ndarray | bytes | None, mtl: str = "") -> None:
    """An .obj with one polygon per list of UV corners."""
    lines = [f"mtllib {path.stem}.mtl", "usemtl m"]
    count = 0
    for number, corners in enumerate(faces):
        # In the plane, a polygon's shape is its shape in UV space: concave ones stay concave.
        lines += [f"v {u + 40 * number} {v} 0\nvt {u} {v}" for u, v in corners]
        lines.append("f " + " ".join(f"{count + i}/{count + i}" for i in range(1, len(corners) + 1)))
        count += len(corners)
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".mtl").write_text(mtl or f"newmtl m\nmap_Kd {path.stem}.png\n")
    if isinstance(picture, bytes):
        path.with_suffix(".png").write_bytes(picture)
    elif picture is not None:
        Image.fromarray(picture).save(path.with_suffix(".png"))


def moved(u: float, v: float) -> list[tuple[float, float]]:
    return [(x + u, y + v) for x, y in QUAD]


def bomb(side: int) -> bytes:
    """A PNG of 100 KB that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000_000), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def glb(document: dict, binary: bytes) -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def scene(parts: int, picture: bytes, count: int = 3) -> bytes:
    """A scene of `parts` meshes with a triangle each, all in one texture; `count`: what the accessors claim."""
    arrays = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], "<f4").tobytes()
    arrays += np.array([(0, 1), (0.5, 1), (0, 0.5)], "<f4").tobytes()  # glTF's v points down
    views = [(0, 36), (36, 24), (60, len(picture))]
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(parts))}],
        "nodes": [{"mesh": number, "translation": [number, 0, 0]} for number in range(parts)],
        "meshes": [{"name": f"part {number}", "primitives": [primitive]} for number in range(parts)],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [{"bufferView": 2, "mimeType": "image/png"}],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": count,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [1, 1, 0],
            },
            {"bufferView": 1, "componentType": 5126, "count": count, "type": "VEC2"},
        ],
        "bufferViews": [{"buffer": 0, "byteOffset": start, "byteLength": size} for start, size in views],
        "buffers": [{"byteLength": len(arrays) + len(picture)}],
    }
    return glb(document, arrays + picture)


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, draw: Callable) -> dict[str, dict]:
    """Source -> its audit row, with its mask as bool [64, 64] where it is kept."""
    root = tmp_path_factory.mktemp("pathology")
    source = root / "source"
    source.mkdir()
    pictures = iter(draw(seed) for seed in range(100))
    picture = next(pictures)
    Image.fromarray(picture).save(root / "picture.png")
    png = (root / "picture.png").read_bytes()
    arrow = [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.25, 0.125)]  # concave at its last corner

    obj(source / "tiled.obj", [[(0, 0), (3, 0), (3, 3), (0, 3)]], next(pictures))
    obj(source / "negative.obj", [moved(-7, -2)], next(pictures))
    obj(source / "across.obj", [moved(0.75, 0)], next(pictures))
    obj(source / "udim.obj", [moved(0, 0), moved(1.5, 0.5), moved(2.5, 0)], next(pictures))
    obj(source / "overlapping.obj", [QUAD, QUAD], next(pictures))
    obj(source / "flipped.obj", [QUAD[::-1]], next(pictures))
    obj(source / "degenerate.obj", [[(0.2, 0.2)] * 3, [(0, 0), (0.5, 0.5), (1, 1)]], next(pictures))
    obj(source / "arrow.obj", [arrow], next(pictures))
    obj(source / "onepixel.obj", [QUAD], next(pictures)[:1, :1])
    obj(source / "nan.obj", [[(float("nan"), 0), (0.5, 0), (0.5, 0.5)]], next(pictures))
    obj(source / "missing.obj", [QUAD], None)
    obj(source / "nothing.obj", [QUAD], b"")
    obj(source / "bomb.obj", [QUAD], bomb(60_000))
    obj(source / "spaces.obj", [QUAD], None, 'newmtl m\nmap_Kd -s 1 1 1 "spaces of OLD.png"\n')
    Image.fromarray(next(pictures)).save(source / "Spaces of old.PNG")
    obj(source / "index.obj", [QUAD], next(pictures))
    (source / "index.obj").write_text((source / "index.obj").read_text() + "f 1/1 2/2 99/99\n")
    obj(source / "nouv.obj", [QUAD], next(pictures))
    (source / "nouv.obj").write_text("mtllib nouv.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    obj(source / "latin.obj", [QUAD], next(pictures))
    (source / "latin.obj").write_bytes("# Stühle\n".encode("latin-1") + (source / "latin.obj").read_bytes())
    (source / "binary.obj").write_bytes(bytes(range(256)) * 8)
    (source / "scene.glb").write_bytes(scene(300, png))
    (source / "truncated.glb").write_bytes(scene(3, png)[:900])
    (source / "claims.glb").write_bytes(scene(1, png, count=2**31))
    (source / "list.gltf").write_text("[]")
    (source / "types.gltf").write_text('{"asset": {"version": 2}, "meshes": "none", "accessors": [7]}')
    (source / "empty.ply").write_bytes(b"")
    (source / "broken.dae").write_text("<COLLADA><unclosed>")

    prepare_dataset([str(source)], root / "out", workers=2, validation_fraction=0, memory_limit=3.0)
    rows: dict[str, dict] = {}
    for line in (root / "out" / "audit.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["source"]] = row
        if row["kept"]:
            with Image.open(root / "out" / "train" / "masks" / f"{row['asset_id']}.png") as mask:
                row["mask"] = np.asarray(mask) == 255
    assert rows.keys() == {
        path.name for path in source.iterdir() if path.suffix.lower() in (".obj", ".glb", ".gltf", ".ply", ".dae")
    }
    return rows


def quarter(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize("name", ["negative", "overlapping", "flipped", "spaces", "latin"])
def test_the_mask_is_where_the_map_points(audit: dict[str, dict], name: str) -> None:
    assert audit[f"{name}.obj"]["reason"] is None
    np.testing.assert_array_equal(audit[f"{name}.obj"]["mask"], quarter(*LEFT_BELOW))


def test_what_goes_over_the_border_comes_in_again(audit: dict[str, dict]) -> None:
    assert audit["tiled.obj"]["mask"].all()
    both = quarter(slice(32, 64), slice(48, 64)) | quarter(slice(32, 64), slice(0, 16))
    np.testing.assert_array_equal(audit["across.obj"]["mask"], both)


def test_a_concave_polygon_is_not_fanned_out(audit: dict[str, dict]) -> None:
    # By the shoelace formula its area is 3/32; a fan from its first corner covers 1/8.
    assert audit["arrow.obj"]["mask"].mean() == pytest.approx(3 / 32, abs=0.006)


def test_a_scene_of_many_parts_is_one_atlas(audit: dict[str, dict]) -> None:
    assert audit["scene.glb"]["triangles"] == 300
    assert audit["scene.glb"]["mask"].mean() == pytest.approx(1 / 8, abs=0.01)


def test_measures_say_what_is_odd(audit: dict[str, dict]) -> None:
    assert audit["overlapping.obj"]["overlap"] == 1
    assert audit["tiled.obj"]["overlap_max"] == 9
    assert audit["negative.obj"]["uv_min_u"] == -7


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("udim.obj", "UDIM"),
        ("degenerate.obj", "not covered"),
        ("onepixel.obj", "is 1x1 texels"),
        ("nan.obj", "are not finite"),
        ("missing.obj", "does not exist"),
        ("nothing.obj", "is empty (0 bytes)"),
        ("bomb.obj", "claims"),
        ("nouv.obj", "no UV coordinates"),
        ("index.obj", "names vertex 99"),
        ("binary.obj", "no faces"),
        ("truncated.glb", "truncated"),
        ("claims.glb", "claims 2147483648 elements"),
        ("list.gltf", "not an object"),
        ("types.gltf", "not an array"),
        ("empty.ply", "is empty (0 bytes)"),
        ("broken.dae", "not a valid COLLADA file"),
    ],
)
def test_what_cannot_be_used_is_set_aside_with_its_reason(audit: dict[str, dict], name: str, reason: str) -> None:
    row = audit[name]
    assert not row["kept"]
    assert reason in row["reason"]
    assert "reader" not in row["reason"]  # each is foreseen: none crashed, hung or raised something raw
    assert "\n" not in row["reason"]


@pytest.mark.slow
def test_a_scene_of_20000_parts(tmp_path: Path, draw: Callable) -> None:
    Image.fromarray(draw(1)).save(tmp_path / "picture.png")
    (tmp_path / "big.glb").write_bytes(scene(20_000, (tmp_path / "picture.png").read_bytes()))
    prepare_dataset([str(tmp_path / "big.glb")], tmp_path / "out", workers=1)
    row = json.loads((tmp_path / "out" / "audit.jsonl").read_text())
    assert row["kept"]
    assert row["triangles"] == 20_000
