"""What a family's frozen encoders make of a dataset, encoded where the cache has none."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from texdiff.data.batch import LatentDataset
from texdiff.data.cache import encoders, keys
from texdiff.data.cache.atlases import OVERLAP, WindowEncodings, atlas_sizes, encode_atlases, map_entry, window_entry
from texdiff.data.cache.encoders import Encoders
from texdiff.data.cache.encodings import CachedEncodings, Cells, Encodings, LiveEncodings, layout_entries
from texdiff.data.cache.files import digests
from texdiff.data.cache.keys import Keys, as_keys, each, key_of, key_of_lists
from texdiff.data.cache.known import encode_known, known_keys
from texdiff.data.cache.masks import LatentMasks, mask_entries, mask_kinds, read_as
from texdiff.data.cache.settings import DataSettings, MaskSettings, Ranks
from texdiff.data.cache.store import Arrays, ArrayStore, Stores, cache_place
from texdiff.data.caption_length import CLIP_TOKENS
from texdiff.data.columns import Column, pick
from texdiff.data.image_source import Source
from texdiff.data.mixture import Mixture, paths_of
from texdiff.data.record import Record
from texdiff.data.records.captions import distinct_captions
from texdiff.diffusion.crops import ROUNDS
from texdiff.errors import InputError
from texdiff.storage import is_address


def encode_dataset(
    data: DataSettings,
    mask: MaskSettings,
    family: Encoders,
    records: Sequence[Record],
    held_out: Sequence[Record],
    ranks: Ranks,
    maps: str = "none",
) -> tuple[LatentDataset, LatentDataset | None]:
    """Training and held-out textures with their latents and prompt embeddings, and `maps` of their meshes.

    The ranks share the work; every one of them can read it all afterwards. The encoders are loaded only where there
    is something to encode, and make room on the device afterwards unless data.cache is `off`. Raises InputError for a
    record that can't be used, for a resolution that the family's latents can't have, for windows with an inpainting
    base, and where ranks read other files.
    """
    if data.resolution % family.latent_factor:
        raise InputError(
            f"data.resolution must be a multiple of {family.latent_factor}, the pixels along a side of a latent cell "
            f"of {family.source} (got {data.resolution})"
        )
    if data.source_resolution is not None and family.hiding is not None:
        raise InputError(
            f"data.source_resolution must be null with an inpainting base, {family.source} (got "
            f"{data.source_resolution}): what it is told of a texture is not cut to windows"
        )
    # On a GPU float32 is to mean float32 here: what is cached must not depend on the machine that made it.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    encoding = _Encoding(data, mask, family, ranks, maps)
    training = encoding.dataset(records, data.posterior)
    validation = encoding.dataset(held_out, "mean") if held_out else None
    ranks.agree(f"{training.content} {validation.content if validation else ''}", "data.dataset: the files")
    if data.cache != "off":
        family.move_encoders("cpu")
    return training, validation


class _Encoded(NamedTuple):
    """n textures, or views of them."""

    encodings: Encodings
    sums: np.ndarray  # [n, 5]
    variation: np.ndarray  # [n, 2]
    shown: np.ndarray | None = None  # [n, 3], where visits get windows


class _Encoding:
    """One run's settings, encoders and stores."""

    def __init__(self, data: DataSettings, mask: MaskSettings, family: Encoders, ranks: Ranks, maps: str) -> None:
        self.data, self.mask, self.family, self.device, self.maps = data, mask, family, ranks.device, maps
        self.setting: dict[str, Any] = {"resolution": data.resolution, "background": data.background}
        self.window = data.resolution // family.latent_factor  # in cells
        self.sizes = atlas_sizes(data, family.latent_factor)
        in_cells = (("dilation", mask.dilation), ("downsample", mask.downsample), ("weight", mask.weight))
        in_windows = ("windows", data.min_crop_coverage, ROUNDS) if self.sizes else ()
        self.mask_setting = (self.window, mask.outside_weight, *in_cells, *in_windows)
        self.latent_mask = LatentMasks(mask, family.latent_factor)
        self.on_disk = data.cache == "disk"
        root = cache_place(data.cache_dir, "encoded")
        # On a disk each rank makes a share for all that see it; what is kept in memory each must make for itself.
        self.share: dict[str, Any] = {
            "mine": ranks.share_of(root) if self.on_disk else slice(None),
            "wait": ranks.wait if self.on_disk else lambda: None,
            "progress": ranks.is_main,
        }
        made_for = {"dataset": paths_of(data.sources), "base": family.source}
        self.stores = Stores(root if self.on_disk else None, made_for)
        self.weights = encoders.fingerprint_of(family, "images", self.stores)
        self.text_weights = encoders.fingerprint_of(family, "prompts", self.stores)

    def dataset(self, records: Sequence[Record], posterior: str) -> LatentDataset:
        """The textures `records` and their captions."""
        images, masks = (self._digests(Column(records, name)) for name in ("image", "mask"))
        kinds = mask_kinds(records, masks, self.stores.open("mask-kinds"), **self.share)
        files = partial(keys.texture_keys, images, read_as(masks, kinds), weights=self.weights, **self.setting)
        by_size = [files(extra=(astuple(size), OVERLAP)) for size in self.sizes] or [files()]
        texture_keys = np.stack(by_size, axis=1).reshape(-1)
        # Each texture at each of the sizes.
        views = records if len(by_size) == 1 else pick(records, np.repeat(np.arange(len(records)), len(by_size)))
        mask_keys = self._mask_keys(texture_keys, views)
        layout_keys = self._layout_keys(records)
        if self.data.cache == "off":
            encoded = self._live(records)
        else:
            encoded = self._cached(views, texture_keys, mask_keys, layout_keys)
        captions = Column[tuple[str, ...]](records, "captions")
        mixture = Mixture(records, self.data.sources, self.data.order)
        content = (texture_keys.tobytes(), mask_keys.tobytes(), captions, *mixture.content)
        return LatentDataset(
            records,
            encoded.encodings,
            sums=torch.from_numpy(encoded.sums),
            variation=torch.from_numpy(encoded.variation),
            shown=None if encoded.shown is None else torch.from_numpy(encoded.shown),
            mixture=mixture,
            kinds=kinds,
            content=key_of_lists(*content, *([] if layout_keys is None else [layout_keys.tobytes()])).hex()[:16],
            posterior=posterior,
            full_masks=self.mask.pixel_weight > 0,
            prompt_repeats=math.lcm(*range(1, max(1, self.data.max_token_length // CLIP_TOKENS) + 1)),
            maps=self.maps,
            variants=self.family.hiding.count if self.family.hiding else 0,
        )

    def _mask_keys(self, texture_keys: Keys, records: Sequence[Record]) -> Keys:
        """The key of each latent mask [n]: the texture's, and where they count the hash of its surface file."""
        if not self.latent_mask.by_surface:
            return as_keys(key_of("mask", key) for key in each(texture_keys))
        surfaces = self._digests(Column(records, "surface"))
        return as_keys(key_of("mask", *pair) for pair in zip(each(texture_keys), each(surfaces), strict=True))

    def _layout_keys(self, records: Sequence[Record]) -> Keys | None:
        """The hash of each layout map's file [n], at each of the sizes; None where the records have none."""
        if records[0].layout is None:
            return None
        files = self._digests(Column(records, "layout"))
        if not self.sizes:
            return files
        return as_keys(key_of(file, astuple(size)) for file in each(files) for size in self.sizes)

    def _digests(self, sources: Sequence[Source]) -> Keys:
        paths = (source.path for source in self.data.sources)
        places = "\n".join(path if is_address(path) else str(Path(path).absolute()) for path in paths)
        return digests(sources, self.stores.open("files", places), **self.share)

    def _cached(
        self, records: Sequence[Record], texture_keys: Keys, mask_keys: Keys, layout_keys: Keys | None
    ) -> _Encoded:
        names = Column[str](records, "name")
        atlases = ("atlases",) if self.sizes else ()
        textures = self.stores.open("textures", *self.setting.values(), self.weights, *atlases)
        places = self._filled(
            textures,
            texture_keys,
            lambda missing: self._encode_views(records, missing),
            "encoding textures",
            names,
        )

        def make_layouts(missing: list[int]) -> Iterable[Arrays]:
            if not self.sizes:
                return layout_entries((records[i] for i in missing), self.data.resolution)
            sides = ((i, len(textures.get(int(places[i]))["mask"])) for i in missing)
            return (map_entry(records[i].layout_map(side), self.data.resolution) for i, side in sides)

        layouts, layout_places = None, None
        if layout_keys is not None:
            layouts = self.stores.open("layouts", self.data.resolution, *atlases)
            layout_places = self._filled(layouts, layout_keys, make_layouts, "layout maps", names)
        captions = distinct_captions(records)
        texts = self.stores.open("captions", self.text_weights)
        self._filled(
            texts,
            keys.caption_keys(captions, self.text_weights),
            lambda missing: self._encode_captions([captions[i] for i in missing]),
            "encoding captions",
            captions,
        )
        masks = self.stores.open("masks", *self.mask_setting)
        mask_places = self._filled(
            masks,
            mask_keys,
            lambda missing: mask_entries(
                (records[i] for i in missing),
                (textures.get(int(places[i])) for i in missing),
                self.latent_mask,
                self.mask.outside_weight > 0,
                self._windows,
            ),
            "masks at latent size",
            names,
        )
        known, known_places = None, None
        if hiding := self.family.hiding:
            count = hiding.count
            known = self.stores.open("known", *self.setting.values(), self.weights)
            known_places = self._filled(
                known,
                known_keys(texture_keys, hiding),
                lambda missing: self._encode_known([(records[i // count], i % count) for i in missing]),
                "encoding what is known",
                names,
                count,
            ).reshape(-1, count)
        kind: Callable[..., Encodings] = CachedEncodings
        shown = None
        if self.sizes:
            kind = partial(WindowEncodings, side=self.window, tile=self.data.resolution)
            shown = masks.column("expected", mask_places)
        cached = kind(
            texture_store=textures,
            texture_places=places,
            mask_store=masks,
            mask_places=mask_places,
            caption_store=texts,
            text_weights=self.text_weights,
            layout_store=layouts,
            layout_places=layout_places,
            known_store=known,
            known_places=known_places,
        )
        return _Encoded(cached, masks.column("sums", mask_places), textures.column("variation", places), shown)

    def _windows(self, cells: Cells) -> Arrays:
        return window_entry(cells, self.window, self.data.min_crop_coverage) if self.sizes else {}

    def _filled(
        self,
        store: ArrayStore,
        entry_keys: Keys,
        make: Callable[[list[int]], Iterable[Arrays]],
        what: str,
        names: Sequence[str],
        each: int = 1,
    ) -> np.ndarray:
        """The place of each key [n] in the store, in which `make` has made what it lacked; `names` [n / each]."""
        places = encoders.fill_store(store, entry_keys, make, what=what, **self.share)
        if (places < 0).any():  # another rank's file system may not show yet what this rank has written
            name = names[int(np.argmin(places)) // each]
            raise InputError(f"{store.place}: the cache entry of {name!r} has gone; start again to rebuild it")
        return places

    def _live(self, records: Sequence[Record]) -> _Encoded:
        def prepare(record: Record) -> Arrays:
            return encoders.prepare_texture(record, **self.setting)[1]

        def measure(record: Record) -> tuple[np.ndarray, np.ndarray]:
            entry = prepare(record)
            if record.layout is not None:
                record.layout_map(self.data.resolution)  # which raises what is wrong with it now, not at a later visit
            return self.latent_mask(record, entry).sums(entry["mask"]), entry["variation"]

        self.family.move_encoders(self.device, "images", "prompts")
        sums, variation = (np.stack(part) for part in zip(*encoders.ahead(measure, records), strict=True))
        live = LiveEncodings(
            records=records,
            encode_textures=self._encode_textures,
            encode_captions=self._encode_captions,
            prepare=prepare,
            latent_mask=self.latent_mask,
            resolution=self.data.resolution,
            encode_known=self._encode_known,
            skip=self.data.unreadable == "skip",
        )
        return _Encoded(live, sums, variation)

    def _encode_views(self, records: Sequence[Record], missing: Sequence[int]) -> Iterator[Arrays]:
        """The entries of the views `missing`, the textures of all of them being `records`."""
        if not self.sizes:
            return self._encode_textures(pick(records, missing))
        self.family.move_encoders(self.device, "images")
        atlases = [(records[i], self.sizes[i % len(self.sizes)]) for i in missing]
        return encode_atlases(atlases, self.family, self.device, **self.setting)

    def _encode_textures(self, records: Sequence[Record]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "images")
        return encoders.encode_textures(records, self.family, self.device, **self.setting)

    def _encode_known(self, choices: Sequence[tuple[Record, int]]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "images")
        return encode_known(choices, self.family, self.device, **self.setting)

    def _encode_captions(self, captions: Sequence[str]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "prompts")
        return encoders.encode_captions(captions, self.family, self.device)
