"""kohya's dataset settings, a .toml: which folders hold images, masks and captions.

What changes the images' captions and how often each is visited is followed; what belongs to a run has its place in that
run's own settings, so it is not looked at; what would give other training data than kohya's scripts is refused by its
key.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.prepare.asset import Asset, unusable
from texdiff.data.prepare.sources.image_folders import (
    IMAGE_SUFFIXES,
    UNREAD_SUFFIXES,
    FolderRules,
    image_asset,
    unread_image,
)
from texdiff.data.rows import read_text
from texdiff.errors import InputError

_FOLLOWED = {"image_dir", "conditioning_data_dir", "caption_extension", "caption_prefix", "caption_suffix"}
_FOLLOWED |= {"class_tokens", "num_repeats", "is_reg", "subsets"}
# Sizes, batches and caches are a run's, and alpha is the mask where an image has no other; the rest says how captions
# are cut into tags, which matters only with keys that are refused.
_A_RUNS_OWN = {"resolution", "batch_size", "enable_bucket", "bucket_no_upscale", "bucket_reso_steps", "min_bucket_reso"}
_A_RUNS_OWN |= {"max_bucket_reso", "network_multiplier", "cache_info", "resize_interpolation", "skip_image_resolution"}
_A_RUNS_OWN |= {"alpha_mask", "keep_tokens", "keep_tokens_separator", "caption_separator", "validation_seed"}
_UNSUPPORTED = ["shuffle_caption", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step"]
_UNSUPPORTED += ["enable_wildcard", "secondary_separator", "custom_attributes"]
_UNSUPPORTED += ["color_aug", "flip_aug", "random_crop", "face_crop_aug_range"]
_REFUSED = {
    "metadata_file": "captions are read from files beside the images; write them there",
    "validation_split": "textures are held out by texdiff prepare --validation_fraction; remove it",
    "caption_dropout_rate": "a run has data.caption_dropout for it; remove it",
    "caption_dropout_every_n_epochs": "a run has data.caption_dropout instead; remove it",
} | dict.fromkeys(_UNSUPPORTED, "it is not supported; remove it")
_NEUTRAL = {"token_warmup_min": 1}  # what does nothing, beside nothing


def read_kohya_config(path: Path) -> list[Asset]:
    """The images of all subsets, each with its mask and captions; masks and images without the other are problems.

    Raises InputError, naming the key, where the file is not like that or would be followed in part only.
    """
    try:
        config = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not a valid TOML file ({error})") from None
    try:
        subsets = list(_subsets(config))
        for name, options in subsets:
            _check(name, options)
        return [asset for _, options in subsets for asset in _images(path, options)]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _subsets(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    if strange := config.keys() - {"general", "datasets"}:
        raise InputError(f"{min(strange)} is not a key of kohya's dataset settings; there are general and datasets")
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


def _check(subset: str, options: dict[str, Any]) -> None:
    for key, value in options.items():
        if value and key in _REFUSED and value != _NEUTRAL.get(key):
            raise InputError(f"{subset}: {key} = {value} cannot be followed: {_REFUSED[key]}")
        if key not in _FOLLOWED | _A_RUNS_OWN | _REFUSED.keys():
            raise InputError(f"{subset}: {key} is not a key of kohya's that is known here; remove it")
    if not isinstance(options.get("image_dir"), str):
        raise InputError(f"{subset} names no image_dir")
    for key in ("conditioning_data_dir", "caption_extension", "caption_prefix", "caption_suffix", "class_tokens"):
        if not isinstance(options.get(key), str | None):
            raise InputError(f"{subset}: {key} must be a text")
    if not isinstance(options.get("is_reg", False), bool):
        raise InputError(f"{subset}: is_reg must be true or false (got {options['is_reg']})")
    repeats = options.get("num_repeats", 1)
    if not isinstance(repeats, int) or repeats < 1:
        raise InputError(f"{subset}: num_repeats must be a whole number of at least 1 (got {repeats})")
    extension = options.get("caption_extension") or ".txt"
    if not extension.startswith(".") or "/" in extension or "\0" in extension:
        raise InputError(f"{subset}: caption_extension must begin with a dot (got {extension})")


def _images(config: Path, options: dict[str, Any]) -> Iterator[Asset]:
    folder = _folder(config, options["image_dir"])
    named = options.get("conditioning_data_dir")
    mask_folder = _folder(config, named) if named else None
    masks = {path.stem: path for path in sorted(mask_folder.iterdir()) if _is_image(path)} if mask_folder else {}
    extension = options.get("caption_extension")
    rules = FolderRules(
        suffixes=(extension,) if extension else (".caption", ".txt"),  # kohya's own default first
        class_tokens=options.get("class_tokens") or "",
        prefix=options.get("caption_prefix") or "",
        suffix=options.get("caption_suffix") or "",
        repeats=options.get("num_repeats", 1),
        regularisation=bool(options.get("is_reg")),
    )
    for path in sorted(folder.iterdir()):
        label = path.relative_to(folder.parent).as_posix()
        if path.suffix.lower() in UNREAD_SUFFIXES:
            yield unread_image(path, folder.parent)
        elif _is_image(path) and mask_folder is None:
            yield image_asset(path, folder.parent, path, rules)
        elif _is_image(path) and path.stem in masks:
            yield image_asset(path, folder.parent, masks.pop(path.stem), rules)
        elif _is_image(path):
            yield unusable(path, label, f"has no mask of its name in conditioning_data_dir {named}; put it there")
    for path in masks.values():
        problem = "is a mask, but there is no image of its name in image_dir; name both alike"
        yield unusable(path, path.relative_to(path.parent.parent).as_posix(), problem)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _folder(config: Path, name: str) -> Path:
    """A folder named in a config: relative to the config's own folder or, as kohya has it, to the current one."""
    for folder in (config.parent / name, Path(name)):
        if folder.is_dir():
            return folder
    raise InputError(f"{name} is not a folder, neither beside the file nor here; correct the path")
