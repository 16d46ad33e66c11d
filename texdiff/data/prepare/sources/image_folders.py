"""Images with masks as other trainers lay them out.

- OneTrainer: `cup.png` and `cup-masklabel.png` beside each other; `cup_mask.png` and `cup-mask.png` are read as well.
- kohya: the masks in a folder of their own under the same names (its `conditioning_data_dir`), found by that folder's
  name or through the .toml that names both; captions in .txt or .caption, or the words in a folder named `10_red cup`.
- Any image with alpha and without a mask file: the alpha is the mask.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.prepare.asset import Asset, asset_key, unusable
from texdiff.data.prepare.sources.captions import caption_from_name, read_sidecar, read_text
from texdiff.errors import InputError, one_line

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".tga", ".ppm", ".pgm", ".pnm", ".pcx", ".dds", ".jp2",
)  # fmt: skip
_UNREAD_SUFFIXES = (
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
    assets = [_asset(path, folder, _mask_of(path, folder, masks)) for path in images if path not in all_masks]
    used = {asset.mask for asset in assets}
    for path in images:
        if path in all_masks - used:
            problem = "is a mask, by its name or folder, but there is no image that it belongs to; name both alike"
            assets.append(unusable(path, path.relative_to(folder).as_posix(), problem))
    return assets + [_unread(path, folder) for path in files if path.suffix.lower() in _UNREAD_SUFFIXES]


def _unread(path: Path, root: Path) -> Asset:
    problem = f"images in {path.suffix.lower()} are not read; save it as PNG"
    return unusable(path, path.relative_to(root).as_posix(), problem, extra=True)


def read_kohya_config(path: Path) -> list[Asset]:
    """The subsets of a kohya dataset .toml: image_dir, conditioning_data_dir, caption_extension, class_tokens."""
    try:
        config = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a valid TOML file ({error})") from None
    try:
        subsets = list(_subsets(config))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    assets = []
    for subset, options in subsets:
        if not isinstance(options.get("image_dir"), str):
            raise InputError(f"{path}: {subset} names no image_dir")
        images = _folder(path, options["image_dir"])
        masks = _folder(path, options["conditioning_data_dir"]) if "conditioning_data_dir" in options else None
        by_stem = {mask.stem: mask for mask in sorted(masks.iterdir())} if masks else {}
        for image in sorted(images.iterdir()):
            if image.suffix.lower() in IMAGE_SUFFIXES:
                mask = by_stem.get(image.stem, image)
                assets.append(_asset(image, images.parent, mask, options.get("class_tokens")))
            elif image.suffix.lower() in _UNREAD_SUFFIXES:
                assets.append(_unread(image, images.parent))
    return assets


def _subsets(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    general = _table(config.get("general", {}), "general")
    for i, dataset in enumerate(_list(config.get("datasets", []), "datasets")):
        options = general | _table(dataset, f"datasets[{i}]")
        for j, subset in enumerate(_list(options.get("subsets", []), f"datasets[{i}].subsets")):
            yield f"datasets[{i}].subsets[{j}]", options | _table(subset, f"datasets[{i}].subsets[{j}]")


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a table of settings")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of tables")
    return value


def _folder(config: Path, name: str) -> Path:
    """A folder named in a config: relative to the config's own folder or, as kohya has it, to the current one."""
    for folder in (config.parent / name, Path(name)):
        if folder.is_dir():
            return folder
    raise InputError(f"{config}: {name} is not a folder, neither beside the file nor here; correct the path")


def _asset(path: Path, root: Path, mask: Path, tokens: Any = None) -> Asset:
    texts = read_sidecar(path) or read_sidecar(path, ".caption")
    if not texts and isinstance(tokens, str) and tokens.strip():
        texts = (one_line(tokens),)
    repeated = re.fullmatch(r"\d+_(.+)", path.parent.name)  # kohya: repeats and class tokens
    if not texts and repeated:
        texts = (one_line(repeated[1]),)
    return Asset(
        path=path,
        mask=mask,
        label=path.relative_to(root).as_posix(),
        key=asset_key(path, mask),
        captions=texts or (caption_from_name(path.stem),),
        named=not texts,
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
