"""The dataset through the frozen VAE and text encoder."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.cache import encoders as cache
from texdiff.data.cache.encodings import Cells, Encoded, Fresh, Kept, mask_entries
from texdiff.data.cache.store import Entry, EntryStore, Keys, as_keys, key_of
from texdiff.data.image_source import Source, StoredFile, digests
from texdiff.data.records import Record
from texdiff.diffusion.mask import cell_weights
from texdiff.errors import InputError
from texdiff.models.base import Base

# Settings of the section mask that do not change a texture's latent cells, or only by way of `outside_weight`.
_NOT_IN_CELLS = ("reduction", "outside", "unmasked_weight", "pixel_weight")


def encode_dataset(
    config: TrainingConfig,
    base: Base,
    accelerator: Accelerator,
    records: Sequence[Record],
    held_out: Sequence[Record],
) -> tuple[LatentDataset, LatentDataset | None]:
    """Training and held-out textures with their latents and text embeddings, encoded where the cache has none.

    The ranks share the work; every one of them can read it all afterwards. The encoders are loaded only where there
    is something to encode, and leave memory afterwards unless data.cache is `off`.
    """
    # On a GPU float32 is to mean float32 here: what is kept must not depend on the machine that made it.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    encoding = _Encoding(config, base, accelerator)
    training = encoding.dataset(records, config.data.posterior)
    validation = encoding.dataset(held_out, "mean") if held_out else None
    base.release("vae", "text_encoder")
    return training, validation


class _Encoding:
    """One run's settings, models and stores."""

    def __init__(self, config: TrainingConfig, base: Base, accelerator: Accelerator) -> None:
        self.config, self.base, self.accelerator = config, base, accelerator
        self.setting: dict[str, Any] = {"resolution": config.data.resolution, "background": config.data.background}
        side = config.data.resolution // base.latent_factor
        mask = {name: value for name, value in asdict(config.mask).items() if name not in _NOT_IN_CELLS}
        self.mask_setting = (side, config.mask.outside_weight, *sorted(mask.items()))
        self.to_latent = partial(
            cell_weights,
            size=(side, side),
            mode=config.mask.downsample,
            unmasked_weight=config.mask.outside_weight,
            dilation=config.mask.dilation,
        )
        self.by_surface = config.mask.weight == "surface"
        self.on_disk = config.data.cache == "disk"
        # On disk each rank makes a share, for all; what is kept in memory each must make for itself.
        ranks = slice(accelerator.process_index, None, accelerator.num_processes)
        self.share: dict[str, Any] = {
            "mine": ranks if self.on_disk else slice(None),
            "wait": accelerator.wait_for_everyone if self.on_disk else lambda: None,
            "progress": accelerator.is_main_process,
        }
        self.stores: dict[str, EntryStore] = {}
        self.weights = self._weights("vae")
        self.text_weights = self._weights("text_encoder", "tokenizer")

    def dataset(self, records: Sequence[Record], posterior: str) -> LatentDataset:
        """The textures `records` and their captions."""
        found = self._digests([source for record in records for source in (record.image, record.mask)])
        keys = cache.texture_keys(found[0::2], found[1::2], weights=self.weights, **self.setting)
        mask_keys = self._mask_keys(keys, records)
        make = self._fresh if self.config.data.cache == "off" else self._kept
        encoded, sums, variation = make(records, keys, mask_keys)
        return LatentDataset(
            records,
            encoded,
            sums=torch.from_numpy(sums),
            variation=torch.from_numpy(variation),
            content=key_of(keys.tobytes(), mask_keys.tobytes(), [record.captions for record in records]).hex()[:16],
            posterior=posterior,
            full_masks=self.config.mask.pixel_weight > 0,
        )

    def latent_mask(self, record: Record, entry: Entry) -> Cells:
        """A texture's latent cells."""
        density = None
        if self.by_surface:
            density = torch.from_numpy(record.density(self.config.data.resolution))[None, None]
        planes = self.to_latent(cache.unpack_mask(entry)[None], density=density)
        return Cells(*(plane[0].numpy() for plane in planes))

    def _mask_keys(self, keys: Keys, records: Sequence[Record]) -> Keys:
        """The key of each latent mask [n]: the texture's, and where they count the hash of its surface file."""
        if not self.by_surface:
            return as_keys([key_of("mask", key) for key in keys.tolist()])
        surfaces = self._digests([record.surface for record in records if record.surface is not None])
        pairs = zip(keys.tolist(), surfaces.tolist(), strict=True)
        return as_keys([key_of("mask", key, surface) for key, surface in pairs])

    def _digests(self, sources: Sequence[Source]) -> Keys:
        return digests(sources, self._store("files", str(Path(self.config.data.dataset).absolute())), **self.share)

    def _kept(self, records: Sequence[Record], keys: Keys, mask_keys: Keys) -> tuple[Encoded, np.ndarray, np.ndarray]:
        textures = self._store("textures", *self.setting.values(), self.weights)
        places = cache.fill_store(
            textures,
            keys,
            lambda missing: cache.encode_textures([records[i] for i in missing], self._model("vae"), **self.setting),
            what="encoding textures",
            **self.share,
        )
        captions = ["", *dict.fromkeys(caption for record in records for caption in record.captions)]
        texts = self._store("captions", self.text_weights)
        caption_places = cache.fill_store(
            texts,
            cache.caption_keys(captions, self.text_weights),
            lambda missing: cache.encode_captions(
                [captions[i] for i in missing], self.base.tokenizer, self._model("text_encoder")
            ),
            what="encoding captions",
            **self.share,
        )
        _require(places, [record.name for record in records], textures)
        _require(caption_places, captions, texts)
        masks = self._store("masks", *self.mask_setting)
        mask_places = cache.fill_store(
            masks,
            mask_keys,
            lambda missing: mask_entries(
                (records[i] for i in missing),
                (textures.get(int(places[i])) for i in missing),
                self.latent_mask,
                self.config.mask.outside_weight > 0,
            ),
            what="masks at latent size",
            **self.share,
        )
        _require(mask_places, [record.name for record in records], masks)
        kept = Kept(
            texture_store=textures,
            texture_places=places,
            mask_store=masks,
            mask_places=mask_places,
            caption_store=texts,
            text_weights=self.text_weights,
        )
        return kept, masks.column("sums", mask_places), textures.column("variation", places)

    def _fresh(self, records: Sequence[Record], keys: Keys, mask_keys: Keys) -> tuple[Encoded, np.ndarray, np.ndarray]:
        def prepare(record: Record) -> Entry:
            return cache.prepare_texture(record, **self.setting)[1]

        entries = [
            (self.latent_mask(r, e).sums(), e["variation"]) for r, e in cache.ahead(lambda r: (r, prepare(r)), records)
        ]
        sums, variation = (np.stack(part) for part in zip(*entries, strict=True))
        fresh = Fresh(
            records=records,
            encode_textures=partial(cache.encode_textures, vae=self._model("vae"), **self.setting),
            encode_captions=partial(
                cache.encode_captions, tokenizer=self.base.tokenizer, text_encoder=self._model("text_encoder")
            ),
            prepare=prepare,
            latent_mask=self.latent_mask,
            skip=self.config.data.unreadable == "skip",
        )
        return fresh, sums, variation

    def _store(self, kind: str, *what: object) -> EntryStore:
        name = f"{kind}-{key_of(cache.FORMAT, *what).hex()[:16]}"
        if name not in self.stores:
            setting = self.config.data.cache_dir
            root = Path(setting) if setting else cache.default_cache_dir() / "encoded"
            self.stores[name] = EntryStore(root / name if self.on_disk else None)
        return self.stores[name]

    def _model(self, part: str) -> Any:
        return getattr(self.base, part).requires_grad_(False).to(self.accelerator.device)

    def _weights(self, part: str, *beside: str) -> str:
        """Fingerprint of a model and of the files beside it. It is remembered by the state of the model's files, so
        that a model of which nothing is needed need not be loaded."""
        store = self._store("models", self.base.source)
        store.load()
        place = store.find(as_keys([self._state(part, *beside)]))[0]
        if place < 0:
            found = cache.fingerprint(getattr(self.base, part))
            files = [path.read_bytes() for folder in beside for path in self._files(folder)]
            entry = {"fingerprint": np.frombuffer(key_of(found, *files), np.uint8)}
            store.add(key := self._state(part, *beside), entry)  # asked again: loading may have brought the files
            store.flush()
            place = store.find(as_keys([key]))[0]
        return store.get(int(place))["fingerprint"].tobytes().hex()

    def _state(self, *parts: str) -> bytes:
        files = [StoredFile(str(path)).signature() for part in parts for path in self._files(part)]
        return key_of(cache.FORMAT, self.base.variant, self.base.revision, *parts, *files)

    def _files(self, part: str) -> list[Path]:
        return sorted(path for path in (self.base.folder / part).rglob("*") if path.is_file())


def _require(places: np.ndarray, names: Sequence[str], store: EntryStore) -> None:
    """Every entry must be there: another rank's file system may not show yet what this rank has written."""
    if (places < 0).any():
        name = names[int(np.argmin(places))]
        raise InputError(f"{store.folder}: the cache entry of {name!r} has gone; start again to rebuild it")
