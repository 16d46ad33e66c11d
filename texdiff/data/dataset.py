"""A dataset's records: where each texture, mask and caption comes from, and how it becomes the model's input."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from texdiff.errors import InputError
from texdiff.uv.gutter import fill
from texdiff.uv.picture import PictureError, read_picture
from texdiff.uv.resize import resize


@dataclass(frozen=True, kw_only=True)
class Record:
    """One texture of a dataset. Its two files are read when asked for, never before."""

    name: str
    image: Callable[[], bytes]
    mask: Callable[[], bytes]
    captions: tuple[str, ...]
    coverage: float | None = None
    """Covered share of the texture where the dataset says it, 0-1."""

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Texture uint8 [H, W, 3] and mask bool [H, W]; InputError names the record where they are no such thing."""
        texture = _decode(self.image(), f"{self.name}: the texture")
        mask = self.read_mask()
        if texture.shape[:2] != mask.shape:
            raise InputError(
                f"{self.name}: texture is {texture.shape[1]}x{texture.shape[0]} but mask is "
                f"{mask.shape[1]}x{mask.shape[0]} pixels; they must be the same picture's, so give them the same size"
            )
        return texture, mask

    def read_mask(self) -> np.ndarray:
        """Mask bool [H, W]: true where the grey is 128 or more."""
        mask = _decode(self.mask(), f"{self.name}: the mask").mean(axis=2) >= 128
        if not mask.any():
            raise InputError(f"{self.name}: the mask is empty (nothing is white), so there is nothing to learn from it")
        return mask

    def model_input(self, resolution: int, background: str | int) -> tuple[Tensor, np.ndarray]:
        """Picture float32 [3, R, R] in [-1, 1] as the VAE gets it, and mask bool [R, R].

        UV space is a square whatever the picture's sides, so a texture that is not square is brought to one.
        `background` is what stands in the void: "fill", "keep" or a grey of 0-255.
        """
        texture, mask = self.read()
        size = (resolution, resolution)
        picture, small = resize(texture, mask, size)
        if not small.any():
            raise InputError(
                f"{self.name}: nothing is left of its mask at {resolution}x{resolution}; its islands are thinner than "
                "a pixel there, so raise data.resolution or take it out of the dataset"
            )
        if background == "fill":
            picture = fill(picture, small)
        elif background == "keep":
            shrinks = texture.shape[0] * texture.shape[1] > resolution**2
            kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
            picture = np.asarray(cv2.resize(texture, size, interpolation=kind), np.uint8)
        else:
            picture = np.where(small[..., None], picture, np.uint8(background))
        tensor = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 127.5 - 1
        return tensor, small


def read_records(
    dataset: str,
    split: str,
    image_column: str = "image",
    mask_column: str = "mask",
    caption_column: str = "text",
) -> list[Record]:
    """The records of `split` in a folder written by `texdiff prepare`, or in any dataset that `datasets` can load.

    An absent split gives an empty list, except `train`. Raises InputError in one line otherwise.
    """
    folder = Path(dataset)
    if (folder / "train" / "metadata.jsonl").is_file():
        metadata = folder / split / "metadata.jsonl"
        if not metadata.is_file():
            return []
        return _folder_records(metadata, image_column, mask_column, caption_column)
    return _loaded_records(dataset, split, image_column, mask_column, caption_column)


def mean_coverage(records: Sequence[Record]) -> float:
    """Mean covered share of the textures, 0-1; masks are read only where the dataset does not say theirs."""
    return float(np.mean([r.read_mask().mean() if r.coverage is None else r.coverage for r in records]))


def _folder_records(metadata: Path, image_column: str, mask_column: str, caption_column: str) -> list[Record]:
    # The names of columns and of their keys in the file, as datasets' imagefolder has it.
    image_key, mask_key = (
        "file_name" if column == "image" else f"{column}_file_name" for column in (image_column, mask_column)
    )
    records = []
    for number, line in enumerate(metadata.read_text("utf-8").splitlines(), start=1):
        where = f"{metadata}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg}); write the dataset again") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: not a JSON object; write the dataset again")
        image, mask = (_inside(metadata.parent, row, key, where) for key in (image_key, mask_key))
        coverage = row.get("coverage")
        records.append(
            Record(
                name=str(image),
                image=image.read_bytes,
                mask=mask.read_bytes,
                captions=_captions(row.get(caption_column), caption_column, where),
                coverage=coverage if isinstance(coverage, float | int) else None,
            )
        )
    if not records:
        raise InputError(f"{metadata}: has no texture; prepare the dataset again")
    return records


def _loaded_records(dataset: str, split: str, image_column: str, mask_column: str, caption_column: str) -> list[Record]:
    import datasets

    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(dataset)
    except Exception as error:  # the library raises a dozen kinds; each is the user's name for a dataset being wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"data.dataset: {dataset} cannot be read as a folder or from the hub ({reason})") from None
    if split not in table:
        if split == "train":
            raise InputError(f"data.dataset: {dataset} has no split `train`; it has {', '.join(map(str, table))}")
        return []
    rows = table[split]
    for key, column in (("image", image_column), ("mask", mask_column), ("caption", caption_column)):
        if column not in rows.column_names:
            raise InputError(
                f"data.{key}_column: {dataset} has no column {column}; it has {', '.join(rows.column_names)}"
            )
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    rows = rows.cast_column(mask_column, datasets.Image(decode=False))

    def file(index: int, column: str) -> bytes:
        cell = rows[index][column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    texts = rows[caption_column]
    records = []
    for index in range(len(rows)):
        name = f"{dataset} {split}[{index}]"
        records.append(
            Record(
                name=name,
                image=partial(file, index, image_column),
                mask=partial(file, index, mask_column),
                captions=_captions(texts[index], caption_column, name),
            )
        )
    return records


def _inside(folder: Path, row: dict[str, object], key: str, where: str) -> Path:
    name = row.get(key)
    if not isinstance(name, str):
        raise InputError(f"{where}: has no {key}; training without it would be wrong, so prepare the dataset again")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {key} {name} leads out of the dataset's folder; give a path inside it")
    if not path.is_file():
        raise InputError(f"{path}: does not exist, but {where} names it; prepare the dataset again")
    return path


def _captions(value: object, column: str, where: str) -> tuple[str, ...]:
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise InputError(f"{where}: {column} is neither a caption nor a list of captions; write one")
    return tuple(captions)


def _decode(data: bytes, what: str) -> np.ndarray:
    try:
        return read_picture(data)
    except PictureError as error:
        raise InputError(f"{what} {error}; replace the file or take it out of the dataset") from None
