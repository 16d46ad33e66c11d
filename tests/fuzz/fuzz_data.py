"""What reads datasets, captions and meshes, each with small sound folders to start from."""

import contextlib
import io
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Files, Reader, files_of, jsonl, naming
from PIL import Image

from texdiff.demo.make import write_meshes
from texdiff.errors import InputError
from texdiff.uv.layout.draw import draw_map
from texdiff.uv.layout.map_image import encode_map

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)


def picture(kind: str = "png", mode: str = "RGB", size: int = 32, **options: Any) -> bytes:
    """A smooth picture as a file of that kind."""
    file = io.BytesIO()
    image = Image.fromarray(COLOURS).resize((size, size), Image.Resampling.BICUBIC)
    (Image.fromarray(np.linspace(0, 65535, size * size, dtype=np.uint16).reshape(size, size)) if mode == "I;16" else
     image.convert(mode)).save(file, kind, **options)  # fmt: skip
    return file.getvalue()


def mask(size: int = 32) -> bytes:
    """White in its upper half."""
    file = io.BytesIO()
    grey = np.zeros((size, size), np.uint8)
    grey[: size // 2] = 255
    Image.fromarray(grey).save(file, "png")
    return file.getvalue()


# --- images, masks and metadata of a dataset, as training reads them


def dataset_seeds() -> list[Files]:
    kinds = [("png", "RGB"), ("png", "RGBA"), ("png", "P"), ("png", "I;16"), ("jpeg", "RGB"), ("jpeg", "CMYK")]
    kinds += [("webp", "RGB"), ("bmp", "RGB"), ("tga", "RGBA"), ("tiff", "RGB"), ("gif", "P"), ("png", "LA")]
    seeds = []
    for kind, mode in kinds:
        rows = [
            {
                "file_name": f"textures/{i}.{kind}",
                "mask_file_name": f"masks/{i}.png",
                "text": ["red <b>crate</b>", "crate"],
                "asset_id": str(i),
                "coverage": 0.5,
                "surface_file_name": f"surfaces/{i}.png",
                "layout_file_name": f"layouts/{i}.png",
            }
            for i in range(2)
        ]
        files = {"train/metadata.jsonl": jsonl(*rows)}
        for i in range(2):
            files |= {f"train/textures/{i}.{kind}": picture(kind, mode), f"train/masks/{i}.png": mask()}
            files[f"train/surfaces/{i}.png"] = picture("png", "I;16")
            files[f"train/layouts/{i}.png"] = encode_map(RNG.integers(0, 65536, (32, 32, 3), dtype=np.uint16))
        seeds.append(files)
    return seeds


def read_dataset(folder: Path) -> None:
    from texdiff.data.records import mean_coverage, read_records

    with naming(folder):
        records = read_records(str(folder), "train", layout_column="layout")
    mean_coverage(records)
    for record in records:
        with naming(record.name, folder):
            tensor, covered = record.model_input(64, "fill")
        assert tensor.shape == (3, 64, 64)
        assert tensor.isfinite().all()
        assert covered.any()  # never without a mask
        with naming(record.name, folder):
            assert np.isfinite(record.density(64)).all()
        with naming(record.name, folder):
            assert record.layout_map(64).shape == (64, 64, 3)


def check_folder(folder: Path) -> None:
    """`texdiff check`, without its processes."""
    from texdiff.data.check import check_texture
    from texdiff.data.prepare.sources import find_assets

    with tempfile.TemporaryDirectory() as spool:
        assets, _ = find_assets([str(folder)], None, Path(spool))
        for asset in assets:
            assert asset.path.resolve().is_relative_to(folder.resolve()) or asset.path.is_relative_to(spool)
            with contextlib.suppress(InputError):  # counted as wrong, with its name
                check_texture(asset)


def layout_seeds() -> list[Files]:
    pair = {"a.png": picture(), "a-masklabel.png": mask(), "a.txt": b"red crate\nold crate"}
    table = b"file_name,mask_file_name,text\ntextures/0.png,masks/0.png,crate\n"
    columns = {"metadata.csv": table, "textures/0.png": picture(), "masks/0.png": mask()}
    return [pair, columns, {"alpha.png": picture(mode="RGBA"), "alpha.txt": b"crate"}]


def kohya_seeds() -> list[Files]:
    config = b'[general]\ncaption_extension = ".txt"\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\n'
    config += b'image_dir = "img"\nconditioning_data_dir = "msk"\nclass_tokens = "crate"\nnum_repeats = 2\n'
    return [{"set.toml": config, "img/a.png": picture(), "msk/a.png": mask(), "img/a.txt": b"crate"}]


def read_kohya(folder: Path) -> None:
    from texdiff.data.prepare.sources.kohya_config import read_kohya_config

    read_kohya_config(folder / "set.toml")


def caption_seeds() -> list[Files]:
    rows = [{"mesh": "a/b.glb", "text": "red crate", "license": "CC0-1.0"}, {"mesh": "c.obj", "text": ["x", "y"]}]
    table = b'mesh,text,license,author\na/b.glb,"red, crate",CC0-1.0,me\nc.obj,old,,\n'
    return [{"captions.jsonl": jsonl(*rows)}, {"captions.csv": table}, {"c.txt": b"one\ntwo\n"}]


def read_all_captions(folder: Path) -> None:
    from texdiff.data.prepare.sources.captions import find_captions, read_sidecar

    find_captions(folder)
    read_sidecar(folder / "c.obj")


# --- meshes

PLY = b"""ply
format ascii 1.0
comment TextureFile paint.png
element vertex 4
property float x
property float y
property float z
property float s
property float t
element face 2
property list uchar int vertex_indices
end_header
0 0 0 0 0
1 0 0 1 0
1 1 0 1 1
0 1 0 0 1
3 0 1 2
3 0 2 3
"""


@cache
def _meshes() -> dict[str, Files]:
    import trimesh

    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(place)
        write_meshes(folder / "made", count=2, seed=0, size=64)
        glb = next((folder / "made").rglob("*.glb"))
        obj = next((folder / "made").rglob("*.obj"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scene = trimesh.load_scene(glb)
            gltf = {name: bytes(data) for name, data in scene.export(file_type="gltf").items()}
        beside = files_of(obj.parent).items()
        return {
            "glb": {"mesh.glb": glb.read_bytes()},
            "gltf": gltf,
            "obj": {("mesh.obj" if name.endswith(".obj") else name): data for name, data in beside},
            "ply": {"mesh.ply": PLY, "paint.png": picture()},
        }


def mesh_seeds(kind: str) -> list[Files]:
    return [_meshes()[kind]]


def read_mesh(folder: Path) -> None:
    """As `prepare` reads it, and as `generate --mesh` dresses it."""
    from texdiff.inference.retexture import retextured_glb
    from texdiff.inference.target import finish_texture, read_seams, read_target
    from texdiff.uv.meshes.atlases import read_atlases

    path = next((p for p in sorted(folder.iterdir()) if p.suffix in (".glb", ".gltf", ".obj", ".ply")), None)
    if path is None:
        return
    with naming(path.name):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_atlases(path)
            assert all(one.name is not None and one.reason for one in found.rejected)
            target = read_target(path)
            for kind in ("position", "normal", "mask", "lines"):
                assert draw_map(target.surface, kind, (16, 16)).shape == (16, 16, 3)
        retextured_glb(target, finish_texture(target, np.zeros((32, 32, 3), np.uint8), read_seams(target)))


MESHES = [
    Reader(f"mesh {kind}", lambda kind=kind: mesh_seeds(kind), r".*\.(glb|gltf|obj|mtl|png|bin|ply)", read_mesh)
    for kind in ("glb", "gltf", "obj", "ply")
]
READERS = [
    Reader("pictures", dataset_seeds, r"train/textures/.*", read_dataset, share=2),
    Reader("masks", dataset_seeds, r"train/masks/.*", read_dataset),
    Reader("metadata", dataset_seeds, r"train/metadata.jsonl", read_dataset, share=2),
    Reader("surfaces", dataset_seeds, r"train/surfaces/.*", read_dataset),
    Reader("layout maps", dataset_seeds, r"train/layouts/.*", read_dataset),
    Reader("check", dataset_seeds, r".*", check_folder),
    Reader("layouts", layout_seeds, r".*", check_folder),
    Reader("kohya config", kohya_seeds, r"set.toml", read_kohya),
    Reader("captions", caption_seeds, r".*", read_all_captions),
    *MESHES,
]
