"""Records of images with masks as other trainers lay them out: what `texdiff check` reads, training reads alike."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from texdiff.data.image_source import Source, StoredFile
from texdiff.data.prepare.asset import Asset, split_of
from texdiff.data.prepare.mask_images import read_alpha
from texdiff.data.prepare.sources import find_assets, is_table
from texdiff.data.record import Record
from texdiff.errors import InputError
from texdiff.files import hold

__all__ = ["is_table", "layout_records"]


@dataclass(frozen=True, slots=True)
class AlphaOf:
    """The alpha of an image, as an image of its own."""

    file: StoredFile

    def __call__(self) -> bytes:
        self.file.signature()  # says that the file is not there
        png = io.BytesIO()
        Image.fromarray(read_alpha(Path(self.file.path))).save(png, "PNG", compress_level=1)
        return png.getvalue()

    def signature(self) -> str:
        return f"alpha {self.file.signature()}"


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there, or not to be read."""

    problem: str

    def __call__(self) -> bytes:
        raise InputError(self.problem)

    def signature(self) -> str:
        raise InputError(self.problem)


def layout_records(dataset: str, split: str, spool: Path, missing_ok: bool) -> list[Record]:
    """The records of `split` in a folder or kohya's .toml. What is not a file yet is written to `spool`.

    Raises InputError where there are meshes, where nothing is there to train on, for a texture without a caption and,
    but for `missing_ok`, for one that cannot be used.
    """
    assets, _ = find_assets([dataset], None, spool)
    hold(spool)
    if any(asset.mask is None for asset in assets):
        raise InputError(f"data.dataset: {dataset} contains meshes; make a dataset of them first with texdiff prepare")
    records = []
    for asset in assets:
        if asset.extra and split == "train":
            print(f"left out: {asset.label}: {asset.problem}", file=sys.stderr, flush=True)
        if not asset.extra and split_of(asset) == split:
            records.append(_record(asset, Path(dataset), missing_ok))
    if split == "train" and (tests := sum(split_of(asset) == "test" for asset in assets)):
        print(f"left out: {tests} textures of the test split of {dataset}", file=sys.stderr, flush=True)
    if not records and split == "train":
        raise InputError(f"data.dataset: {dataset} has no texture to train on")
    return records


def _record(asset: Asset, dataset: Path, missing_ok: bool) -> Record:
    name = str(asset.path)
    if asset.problem:
        text = f"{dataset / asset.label if dataset.is_dir() else asset.label}: {asset.problem}"
        if not missing_ok:
            raise InputError(text)
        return Record(name=asset.label, image=Missing(text), mask=Missing(text), captions=("",))
    if asset.named:
        raise InputError(f"{name}: has no caption; write one, in {asset.path.stem}.txt beside it or in the table")
    image, mask = StoredFile(name), asset.mask
    for file in (asset.path, mask):
        if file is not None and not file.is_file() and not missing_ok:
            raise InputError(f"{file}: does not exist, but the dataset names it; restore it")
    mask_source: Source = AlphaOf(image) if mask is None or mask == asset.path else StoredFile(str(mask))
    surface = StoredFile(str(asset.surface)) if asset.surface else None
    layout = StoredFile(str(asset.layout)) if asset.layout else None
    return Record(
        name=name,
        image=image,
        mask=mask_source,
        captions=asset.captions,
        surface=surface,
        layout=layout,
        repeats=asset.repeats,
        regularisation=asset.regularisation,
    )
