"""`texdiff check`: is this dataset fit to train on? Every image, mask and caption is read, nothing is written."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from texdiff.data.caption_length import CountTokens, find_long_captions
from texdiff.data.mask_weights import THRESHOLD, MaskKind, empty_mask, grey_share, mask_kind, mask_weights
from texdiff.data.prepare.asset import Asset, split_of
from texdiff.data.prepare.mask_images import fit_mask, read_pair
from texdiff.data.prepare.sources import find_assets
from texdiff.data.prepare.sources.in_storage import fetched, stored_assets
from texdiff.data.prepare.workers import Failure, Workers
from texdiff.errors import InputError
from texdiff.storage import ConnectionBroken, is_address
from texdiff.uv.audit import rejection_reason
from texdiff.uv.image import ImageError, content_hash
from texdiff.uv.inverted import looks_inverted, many_inverted, variation
from texdiff.uv.layout.map_image import read_map, sample_map, without_position
from texdiff.uv.measures import measure
from texdiff.uv.texel_area import read_area_file
from texdiff.uv.void import flat_void

_WITHOUT_POSITION = 0.05  # of 164 furniture textures resized to 512, all but two have less, at the islands' borders
_TIME_LIMIT, _MEMORY_LIMIT = 120.0, 4.0  # seconds and GiB per image


@dataclass(frozen=True)
class Finding:
    """Something about one file. `wrong`: training would be wrong; else it is only worth knowing."""

    file: str
    text: str
    wrong: bool

    def __str__(self) -> str:
        return f"{self.file}: {'error' if self.wrong else 'warning'}: {self.text}"


@dataclass(frozen=True)
class Checked:
    """What checking one texture gave; all but the findings only where both files could be read."""

    findings: tuple[Finding, ...]
    coverage: float | None = None
    content: str = ""
    variation: tuple[float, float] | None = None  # inside the mask and outside
    void: tuple[int, int, int] | None = None  # its colour where it is flat


def check_dataset(
    source: str | Sequence[str], workers: int = 1, count_tokens: CountTokens | None = None
) -> Iterator[str]:
    """Yield a line per finding, and a summary as the last one, which names the number of errors first.

    Args:
        source: The dataset, or several that are trained on together.
        workers: Processes that read.
        count_tokens: Those of CLIP; with it captions are looked at that its text encoder would cut.

    Raises InputError where the source cannot be read as a dataset at all.
    """
    sources = [source] if isinstance(source, str) else list(source)
    name = ", ".join(sources)
    with tempfile.TemporaryDirectory() as spool:
        assets = []
        for one in sources:
            if is_address(one):
                found = stored_assets(one, Path(tempfile.mkdtemp(dir=spool)))
            else:
                found, _ = find_assets([one], None, Path(spool))
            if any(asset.mask is None for asset in found):
                raise InputError(f"{one}: contains meshes; make a dataset of them first with texdiff prepare")
            several = len(sources) > 1
            assets += [replace(asset, label=f"{one}/{asset.label}") if several else asset for asset in found]
        checked: dict[Asset, Checked] = {}
        limits = {"time_limit": _TIME_LIMIT, "memory_limit": _MEMORY_LIMIT}
        with Workers((check_texture,), count=min(workers, len(assets)), **limits) as pool:
            for asset, answer in tqdm(
                pool.run(check_texture, assets), desc="checking", unit=" textures", total=len(assets), file=sys.stderr
            ):
                if isinstance(answer, ConnectionBroken):
                    raise answer
                failed = isinstance(answer, Failure)
                checked[asset] = (
                    Checked((Finding(asset.label, answer.reason, wrong=not asset.extra),)) if failed else answer
                )
    findings = [finding for asset in assets for finding in checked[asset].findings]
    findings += [
        *_duplicates(checked, assets),
        *_captions(assets, count_tokens),
        *_inverted(checked, name),
        *_surfaces(assets, name),
        *(finding for one in sources for finding in _strangers(Path(one), assets)),
    ]
    if all(split_of(asset) != "train" for asset in assets):
        findings.append(Finding(name, "holds out all of its textures: none is left to train on", wrong=True))
    yield from map(str, findings)
    errors = sum(finding.wrong for finding in findings)
    covered = [texture.coverage for texture in checked.values() if texture.coverage is not None]
    mean = f"mean coverage {np.mean(covered):.1%}" if covered else "no mask can be read"
    said = f"{errors} errors, {len(findings) - errors} warnings in {len(assets)} textures of {name}; {mean}"
    yield said + _flat_voids([texture.void for texture in checked.values() if texture.coverage is not None])


def check_texture(asset: Asset) -> Checked | ConnectionBroken:
    """Read one image and its mask, in a worker. Raises InputError where one of them cannot be read; a connection that
    is broken says nothing of the image, and is returned."""
    if asset.problem:
        raise InputError(asset.problem)
    if asset.address:
        try:
            with fetched(asset) as here:
                return check_texture(here)
        except ConnectionBroken as error:
            return error
    assert asset.mask is not None
    texture, grey = read_pair(asset.path, asset.mask)
    height, width = texture.shape[:2]
    wrong, worth_knowing = [], []
    weights = mask_weights(grey)
    if grey.shape != (height, width):
        wrong.append(f"the image is {width}x{height} but its mask {grey.shape[1]}x{grey.shape[0]}")
        try:
            weights = fit_mask(grey, (height, width))
        except InputError:
            return Checked((Finding(asset.label, wrong[0], wrong=True),))
    mask, kind = weights > 0, mask_kind(grey)
    if kind is MaskKind.WEIGHTS:
        worth_knowing.append(f"{grey_share(grey):.0%} of the mask are grey, so its texels weigh their value / 255")
    elif kind is MaskKind.CUT:
        worth_knowing.append(f"{grey_share(grey):.2%} of the mask are grey; from {THRESHOLD} on they count as mapped")
    if not mask.any():
        wrong.append(empty_mask(grey))
    elif not mask[::8, ::8].any():
        wrong.append("the mask is empty at 1/8, where the loss is computed: its islands are too thin")
    elif looks_inverted(texture, weights >= THRESHOLD):
        wrong.append("the mask looks inverted: what it covers is plain, and what it leaves out is not")
    elif mask.all():
        worth_knowing.append("the mask covers everything, so it masks nothing")
    elif reason := rejection_reason(measure(texture, mask)):
        worth_knowing.append(f"the texture {reason}")
    if asset.surface is not None and (odd := _odd_surface(asset.surface, mask)):
        wrong.append(odd)
    if asset.layout is not None:
        faults, remarks = _odd_layout(asset.layout, mask)
        wrong, worth_knowing = wrong + faults, worth_knowing + remarks
    findings = [Finding(asset.label, text, wrong=True) for text in wrong]
    findings += [Finding(asset.label, text, wrong=False) for text in worth_knowing]
    varies, void = variation(texture, weights >= THRESHOLD), flat_void(texture, mask)
    return Checked(tuple(findings), float(mask.mean()), content_hash(texture), varies, void)


def _flat_voids(voids: list[tuple[int, int, int] | None]) -> str:
    """What flat voids would teach; no finding, as the default settings do not teach it."""
    flat = sum(void is not None for void in voids)
    if not flat:
        return ""
    return (
        f"; {flat / len(voids):.0%} have a void of one colour, which data.background keep with mask.unmasked_weight "
        "above 0 would teach the model to paint (the defaults do not)"
    )


def _odd_surface(path: Path, mask: NDArray[np.bool_]) -> str | None:
    try:
        grey = read_area_file(path, mask.shape)
    except InputError as error:
        return str(error)
    differ = float(((grey > 0) != mask).mean())
    return f"the surface file and the mask disagree on {differ:.2%} of the texels" if differ else None


def _odd_layout(path: Path, mask: NDArray[np.bool_]) -> tuple[list[str], list[str]]:
    """What is wrong with a layout map, and what is worth knowing."""
    try:
        layout = read_map(path)
    except ImageError as error:
        return [f"the layout map {error}; prepare the dataset again from the meshes"], []
    wrong: list[str] = []
    worth_knowing: list[str] = []
    (height, width), (rows, columns) = layout.shape[:2], mask.shape
    if abs(height * columns - width * rows) > max(height, width):
        wrong.append(f"the layout map is {width}x{height} but the image {columns}x{rows} pixels")
    there = sample_map(layout, mask.shape).any(axis=2)
    if not (there & mask).any():
        wrong.append("the layout map is 0 wherever the mask is white")
    elif (missing := without_position(layout, mask)) > _WITHOUT_POSITION:
        worth_knowing.append(f"the layout map is 0 on {missing:.2%} of the texels that the mask covers")
    if (outside := float((there & ~mask).mean())) > 0:
        worth_knowing.append(f"the layout map is not 0 on {outside:.2%} of the texels, where the mask is black")
    return wrong, worth_knowing


def _duplicates(checked: dict[Asset, Checked], assets: list[Asset]) -> Iterator[Finding]:
    first: dict[str, Asset] = {}
    for asset in assets:
        if not checked[asset].content:
            continue
        same = first.setdefault(checked[asset].content, asset)
        if same.split != asset.split:
            text = f"the same image as {same.label}, in another split: validation would measure what was trained on"
            yield Finding(asset.label, text, wrong=True)
        elif same is not asset:
            yield Finding(asset.label, f"the same image as {same.label}", wrong=False)


def _captions(assets: list[Asset], count_tokens: CountTokens | None) -> Iterator[Finding]:
    for asset in assets:
        if asset.named and not asset.problem:
            yield Finding(asset.label, "has no caption", wrong=True)
    given = [asset for asset in assets if not asset.named]
    if len(given) > 2 and len({asset.captions for asset in given}) == 1:
        yield Finding(given[0].label, f"all captions are the same: {given[0].captions[0]}", wrong=False)
    named = ((asset.label, asset.captions) for asset in given)
    if count_tokens is not None and (long := find_long_captions(named, count_tokens)):
        yield Finding(long.first, str(long), wrong=False)


def _inverted(checked: dict[Asset, Checked], source: str) -> Iterator[Finding]:
    shares = [texture.variation for texture in checked.values() if texture.variation is not None]
    outside = sum(outer > inner for inner, outer in shares)
    if many_inverted(outside, len(shares)):
        text = f"the masks look inverted: {outside} of {len(shares)} textures vary more outside the mask than inside"
        yield Finding(source, text, wrong=True)
    elif 2 <= outside == len(shares) and all(outer > 1.1 * inner for inner, outer in shares):
        text = f"the masks may be inverted: all {outside} textures vary more outside the mask than inside"
        yield Finding(source, text, wrong=False)


def _surfaces(assets: list[Asset], source: str) -> Iterator[Finding]:
    surfaces = [asset.label for asset in assets if asset.surface is None], "surface file", "mask.weight surface"
    layouts = [asset.label for asset in assets if asset.layout is None], "layout map", "layout maps"
    for without, what, training in (surfaces, layouts):
        if 0 < len(without) < len(assets):
            text = f"{len(without)} of {len(assets)} textures have no {what} ({without[0]}): training with {training}"
            yield Finding(source, f"{text} will refuse them", wrong=False)


def _strangers(folder: Path, assets: list[Asset]) -> Iterator[Finding]:
    """Images beside a table that no row names: left there by mistake, or missing from the table."""
    named = {
        path.resolve() for asset in assets for path in (asset.path, asset.mask, asset.surface, asset.layout) if path
    }
    for table in sorted(folder.glob("*/metadata.*")) if folder.is_dir() else []:
        for path in sorted(table.parent.rglob("*.png")):
            if path.resolve() not in named:
                yield Finding(path.relative_to(folder).as_posix(), "no row of the metadata names it", wrong=False)
