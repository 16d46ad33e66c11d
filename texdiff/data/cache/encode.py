"""What a family's frozen encoders make of a dataset, encoded where the cache has none."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from texdiff.data.batch import LatentDataset
from texdiff.data.cache import encoders, keys
from texdiff.data.cache.digests import digests
from texdiff.data.cache.encoders import Encoders, Encodes, default_cache_dir
from texdiff.data.cache.encodings import (
    CachedEncodings,
    Cells,
    Encodings,
    LiveEncodings,
    covered_share,
    layout_entries,
    mask_entries,
    texel_weights,
)
from texdiff.data.cache.keys import Keys, as_keys, key_of
from texdiff.data.cache.known import encode_known, known_keys
from texdiff.data.cache.mask_kinds import mask_kinds, read_as
from texdiff.data.cache.settings import DataSettings, MaskSettings, Ranks
from texdiff.data.cache.store import Arrays, ArrayStore
from texdiff.data.caption_length import CLIP_TOKENS
from texdiff.data.image_source import Source
from texdiff.data.mixture import Mixture, paths_of
from texdiff.data.record import Record
from texdiff.diffusion.mask import cell_weights
from texdiff.errors import InputError


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
    record that can't be used, for a resolution that the family's latents can't have, and where ranks read other files.
    """
    if data.resolution % family.latent_factor:
        raise InputError(
            f"data.resolution must be a multiple of {family.latent_factor}, the pixels along a side of a latent cell "
            f"of {family.source} (got {data.resolution})"
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


class _Encoding:
    """One run's settings, encoders and stores."""

    def __init__(self, data: DataSettings, mask: MaskSettings, family: Encoders, ranks: Ranks, maps: str) -> None:
        self.data, self.mask, self.family, self.device, self.maps = data, mask, family, ranks.device, maps
        self.setting: dict[str, Any] = {"resolution": data.resolution, "background": data.background}
        side = data.resolution // family.latent_factor
        in_cells = (("dilation", mask.dilation), ("downsample", mask.downsample), ("weight", mask.weight))
        self.mask_setting = (side, mask.outside_weight, *in_cells)
        self.to_latent = partial(
            cell_weights,
            size=(side, side),
            mode=mask.downsample,
            unmasked_weight=mask.outside_weight,
            dilation=mask.dilation,
        )
        self.by_surface = mask.weight == "surface"
        self.on_disk = data.cache == "disk"
        self.root = Path(data.cache_dir) if data.cache_dir else default_cache_dir() / "encoded"
        # On a disk each rank makes a share for all that see it; what is kept in memory each must make for itself.
        self.share: dict[str, Any] = {
            "mine": ranks.share_of(self.root) if self.on_disk else slice(None),
            "wait": ranks.wait if self.on_disk else lambda: None,
            "progress": ranks.is_main,
        }
        self.stores: dict[str, ArrayStore] = {}
        self.made_for = {"dataset": paths_of(data.sources), "base": family.source}
        self.weights, self.text_weights = self._fingerprint("images"), self._fingerprint("prompts")

    def dataset(self, records: Sequence[Record], posterior: str) -> LatentDataset:
        """The textures `records` and their captions."""
        found = self._digests([source for record in records for source in (record.image, record.mask)])
        images, masks = found[0::2], found[1::2]
        kinds = mask_kinds(records, masks, self._store("mask-kinds"), **self.share)
        texture_keys = keys.texture_keys(images, read_as(masks, kinds), weights=self.weights, **self.setting)
        mask_keys = self._mask_keys(texture_keys, records)
        layout_keys = self._layout_keys(records)
        if self.data.cache == "off":
            encoded, sums, variation = self._live(records)
        else:
            encoded, sums, variation = self._cached(records, texture_keys, mask_keys, layout_keys)
        captions = [record.captions for record in records]
        mixture = Mixture(records, self.data.sources)
        content = (texture_keys.tobytes(), mask_keys.tobytes(), captions, *mixture.content)
        return LatentDataset(
            records,
            encoded,
            sums=torch.from_numpy(sums),
            variation=torch.from_numpy(variation),
            mixture=mixture,
            kinds=kinds,
            content=key_of(*content, *([] if layout_keys is None else [layout_keys.tobytes()])).hex()[:16],
            posterior=posterior,
            full_masks=self.mask.pixel_weight > 0,
            prompt_repeats=math.lcm(*range(1, max(1, self.data.max_token_length // CLIP_TOKENS) + 1)),
            maps=self.maps,
            variants=self.family.hiding.count if self.family.hiding else 0,
        )

    def latent_mask(self, record: Record, entry: Arrays) -> Cells:
        """A texture's latent cells."""
        density = None
        if self.by_surface:
            density = torch.from_numpy(record.density(self.data.resolution))[None, None]
        mask = torch.from_numpy(texel_weights(entry["mask"]))[None, None]
        target, outside, _ = (plane[0].numpy() for plane in self.to_latent(mask, density=density))
        return Cells(target, outside, covered_share(entry["mask"], target.shape[1]))

    def _mask_keys(self, texture_keys: Keys, records: Sequence[Record]) -> Keys:
        """The key of each latent mask [n]: the texture's, and where they count the hash of its surface file."""
        if not self.by_surface:
            return as_keys([key_of("mask", key) for key in texture_keys.tolist()])
        surfaces = self._digests([record.surface for record in records if record.surface is not None])
        pairs = zip(texture_keys.tolist(), surfaces.tolist(), strict=True)
        return as_keys([key_of("mask", key, surface) for key, surface in pairs])

    def _layout_keys(self, records: Sequence[Record]) -> Keys | None:
        """The hash of each layout map's file [n]; None where the records have none."""
        sources = [record.layout for record in records if record.layout is not None]
        return self._digests(sources) if sources else None

    def _digests(self, sources: Sequence[Source]) -> Keys:
        places = "\n".join(str(Path(source.path).absolute()) for source in self.data.sources)
        return digests(sources, self._store("files", places), **self.share)

    def _cached(
        self, records: Sequence[Record], texture_keys: Keys, mask_keys: Keys, layout_keys: Keys | None
    ) -> tuple[Encodings, np.ndarray, np.ndarray]:
        names = [record.name for record in records]
        layouts, layout_places = None, None
        if layout_keys is not None:
            layouts = self._store("layouts", self.data.resolution)
            layout_places = self._filled(
                layouts,
                layout_keys,
                lambda missing: layout_entries([records[i] for i in missing], self.data.resolution),
                "layout maps",
                names,
            )
        textures = self._store("textures", *self.setting.values(), self.weights)
        places = self._filled(
            textures,
            texture_keys,
            lambda missing: self._encode_textures([records[i] for i in missing]),
            "encoding textures",
            names,
        )
        captions = ["", *dict.fromkeys(caption for record in records for caption in record.captions)]
        texts = self._store("captions", self.text_weights)
        self._filled(
            texts,
            keys.caption_keys(captions, self.text_weights),
            lambda missing: self._encode_captions([captions[i] for i in missing]),
            "encoding captions",
            captions,
        )
        masks = self._store("masks", *self.mask_setting)
        mask_places = self._filled(
            masks,
            mask_keys,
            lambda missing: mask_entries(
                (records[i] for i in missing),
                (textures.get(int(places[i])) for i in missing),
                self.latent_mask,
                self.mask.outside_weight > 0,
            ),
            "masks at latent size",
            names,
        )
        known, known_places = None, None
        if hiding := self.family.hiding:
            pairs = [(record, number) for record in records for number in range(hiding.count)]
            known = self._store("known", *self.setting.values(), self.weights)
            known_places = self._filled(
                known,
                known_keys(texture_keys, hiding),
                lambda missing: self._encode_known([pairs[i] for i in missing]),
                "encoding what is known",
                [record.name for record, _ in pairs],
            ).reshape(-1, hiding.count)
        cached = CachedEncodings(
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
        return cached, masks.column("sums", mask_places), textures.column("variation", places)

    def _filled(
        self,
        store: ArrayStore,
        entry_keys: Keys,
        make: Callable[[list[int]], Iterable[Arrays]],
        what: str,
        names: Sequence[str],
    ) -> np.ndarray:
        """The place of each key [n] in the store, in which `make` has made what it lacked."""
        places = encoders.fill_store(store, entry_keys, make, what=what, **self.share)
        if (places < 0).any():  # another rank's file system may not show yet what this rank has written
            name = names[int(np.argmin(places))]
            raise InputError(f"{store.folder}: the cache entry of {name!r} has gone; start again to rebuild it")
        return places

    def _live(self, records: Sequence[Record]) -> tuple[Encodings, np.ndarray, np.ndarray]:
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
        return live, sums, variation

    def _encode_textures(self, records: Sequence[Record]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "images")
        return encoders.encode_textures(records, self.family, self.device, **self.setting)

    def _encode_known(self, choices: Sequence[tuple[Record, int]]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "images")
        return encode_known(choices, self.family, self.device, **self.setting)

    def _encode_captions(self, captions: Sequence[str]) -> Iterator[Arrays]:
        self.family.move_encoders(self.device, "prompts")
        return encoders.encode_captions(captions, self.family, self.device)

    def _store(self, kind: str, *what: object) -> ArrayStore:
        name = f"{kind}-{key_of(keys.FORMAT, *what).hex()[:16]}"
        if name not in self.stores:
            self.stores[name] = ArrayStore(self.root / name if self.on_disk else None, self.made_for)
        return self.stores[name]

    def _fingerprint(self, encodes: Encodes) -> str:
        """Hash of all that an encoder's answers depend on. It is remembered by the state of the encoder's files, so
        that one of which nothing is needed need not be loaded."""
        store = self._store("models", self.family.source)
        store.load()
        place = store.find(as_keys([self._state(encodes)]))[0]
        if place < 0:
            found = key_of(*self.family.encoder_content(encodes))
            key = self._state(encodes)  # asked again: loading may have brought the files
            store.add(key, {"fingerprint": np.frombuffer(found, np.uint8)})
            store.flush()
            place = store.find(as_keys([key]))[0]
        store.mark_used(np.array([place]))
        return store.get(int(place))["fingerprint"].tobytes().hex()

    def _state(self, encodes: Encodes) -> bytes:
        return key_of(keys.FORMAT, *self.family.encoder_state(encodes))
