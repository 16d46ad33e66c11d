"""Images with masks as other trainers lay them out.

- OneTrainer: `cup.png` and `cup-masklabel.png` beside each other; `cup_mask.png` and `cup-mask.png` are read as well.
- kohya: the masks in a folder of their own under the same names (its `conditioning_data_dir`), found by that folder's
  name or through the .toml that names both; captions in .txt or .caption, or the words in a folder named `10_red cup`.
- Any image with alpha and without a mask file: the alpha is the mask.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from texdiff.data.prepare.asset import Asset, asset_key, folder_split, unusable
from texdiff.data.prepare.sources.captions import caption_from_name, read_sidecar
from texdiff.errors import InputError, one_line

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".tga", ".ppm", ".pgm", ".pnm", ".pcx", ".dds", ".jp2",
)  # fmt: skip
UNREAD_SUFFIXES = (
    ".exr", ".hdr", ".heic", ".heif", ".jxl", ".svg", ".ktx", ".ktx2", ".basis", ".psd", ".psb", ".xcf", ".kra", ".ora",
    ".dng", ".nef", ".cr2", ".raw", ".sbsar",
)  # fmt: skip
_MASK_LABELS = ("-masklabel", "-condlabel")
_MASK_ENDINGS = ("_mask", "-mask", ".mask")  # a mask's where the image without it is there
_MASK_FOLDERS = ("mask", "masks", "conditioning", "conditioning_data", "cond")


def find_images(folder: Path, files: list[Path]) -> list[Asset]:
    """The images among the files of a folder, each with its mask; images that are masks are not listed, but for those
    of no image, which are problems, as are images of a kind that is not read."""
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    mask_folders = _mask_folders(folder, images)
    places = {_place(path) for path in images}
    all_masks = {path for path in images if _is_mask(path, mask_folders, places)}
    masks = {_place(path): path for path in images if path in all_masks}
    assets = [
        image_asset(path, folder, _mask_of(path, folder, masks), split=folder_split(path, folder))
        for path in images
        if path not in all_masks
    ]
    used = {asset.mask for asset in assets}
    for path in images:
        if path in all_masks - used:
            problem = "is a mask, by its name or folder, but there is no image that it belongs to; name both alike"
            assets.append(unusable(path, path.relative_to(folder).as_posix(), problem))
    return assets + [unread_image(path, folder) for path in files if path.suffix.lower() in UNREAD_SUFFIXES]


def unread_image(path: Path, root: Path) -> Asset:
    """An image of a kind that is not read."""
    problem = f"images in {path.suffix.lower()} are not read; save it as PNG"
    return unusable(path, path.relative_to(root).as_posix(), problem, extra=True)


class FolderRules(NamedTuple):
    """What is said of all images of a folder: where captions are, what is put before and after each, and how often each
    image is visited."""

    suffixes: tuple[str, ...] = (".txt", ".caption")  # of the file beside it, tried in order
    class_tokens: str = ""  # where there is none
    prefix: str = ""
    suffix: str = ""
    repeats: int | None = None  # by the folder's name, 10_red cup, or else 1
    regularisation: bool = False


BESIDE = FolderRules()


def image_asset(path: Path, root: Path, mask: Path, rules: FolderRules = BESIDE, split: str = "") -> Asset:
    """An image with its captions, at last those of its folder's name or of its own; a problem where the file of its
    captions cannot be read."""
    try:
        texts = next(filter(None, (read_sidecar(path, ending) for ending in rules.suffixes)), ())
    except InputError as error:
        return replace(unusable(path, path.relative_to(root).as_posix(), str(error), split=split), mask=mask)
    repeated = re.fullmatch(r"(\d+)_(.+)", path.parent.name)  # kohya: repeats and class tokens
    repeats = rules.repeats or (int(repeated[1]) if repeated else 1)
    if repeats == 0:
        problem = "is in a folder of 0 repeats, which kohya's scripts leave out"
        return replace(unusable(path, path.relative_to(root).as_posix(), problem, split=split, extra=True), mask=mask)
    for words in (rules.class_tokens, repeated[2] if repeated else ""):
        if not texts and words.strip():
            texts = (one_line(words),)
    captions = (f"{rules.prefix} {text} {rules.suffix}" for text in texts or (caption_from_name(path.stem),))
    return Asset(
        path=path,
        mask=mask,
        label=path.relative_to(root).as_posix(),
        key=asset_key(path, mask),
        captions=tuple(map(one_line, captions)),
        named=not texts,
        split=split,
        repeats=repeats,
        regularisation=rules.regularisation,
    )


def _is_mask(path: Path, mask_folders: set[Path], places: set[Path]) -> bool:
    if path.stem.endswith(_MASK_LABELS) or not mask_folders.isdisjoint(path.parents):
        return True
    return any(
        path.stem.lower().endswith(end) and path.with_name(path.stem[: -len(end)]) in places for end in _MASK_ENDINGS
    )


def _mask_folders(folder: Path, images: list[Path]) -> set[Path]:
    """Folders whose images are masks: called so, or `cups_mask` beside `cups` or with the names of images elsewhere. A
    class folder of kohya's, `10_gas_mask`, is none."""
    found = set()
    for inner in {above for path in images for above in path.parents if above.is_relative_to(folder)} - {folder}:
        name = inner.name.lower()
        if name in _MASK_FOLDERS:
            found.add(inner)
        elif ending := next((end for end in ("_mask", "_masks") if name.endswith(end)), None):
            beside = inner.with_name(inner.name[: -len(ending)])
            inside = {_bare(path.stem) for path in images if inner in path.parents}
            outside = {path.stem for path in images if inner not in path.parents}
            if beside.is_dir() or (not re.match(r"\d+_", name) and inside <= outside):
                found.add(inner)
    return found


def _bare(stem: str) -> str:
    """The name of a mask without what says that it is one."""
    ending = next((end for end in (*_MASK_LABELS, *_MASK_ENDINGS) if stem.lower().endswith(end)), "")
    return stem[: len(stem) - len(ending)]


def _mask_of(path: Path, folder: Path, masks: dict[Path, Path]) -> Path:
    """The image's mask, or the image itself, whose alpha may be one."""
    beside = [path.with_name(path.stem + label) for label in (_MASK_LABELS[0], *_MASK_ENDINGS)]
    inside = [path.parent / name / path.stem for name in _MASK_FOLDERS]
    within = path.relative_to(folder).parts[:-1]
    parallel = []
    for depth in range(len(within)):  # a/images/x -> a/masks/x, and x/10_cup/y -> masks/10_cup/y
        start, rest = folder.joinpath(*within[:depth]), Path(*within[depth + 1 :])
        names = [*_MASK_FOLDERS, f"{within[depth]}_mask", f"{within[depth]}_masks"]
        parallel += [start / name / rest / path.stem for name in names]
        parallel += [start / name / Path(*within[depth:]) / path.stem for name in _MASK_FOLDERS]
    named = [one.with_name(one.name + label) for one in (*inside, *parallel) for label in ("", *_MASK_ENDINGS)]
    for candidate in (*beside, *named):
        if candidate in masks:
            return masks[candidate]
    return path


def _place(path: Path) -> Path:
    return path.with_name(path.stem)
