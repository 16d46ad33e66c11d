"""The dataset through the frozen VAE and text encoder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.cache import TensorStore, cache_captions, cache_textures, default_cache_dir
from texdiff.data.dataset import Record
from texdiff.diffusion.mask import latent_weights
from texdiff.training.models import Base


def encode_dataset(
    config: TrainingConfig,
    base: Base,
    accelerator: Accelerator,
    records: Sequence[Record],
    held_out: Sequence[Record],
) -> tuple[LatentDataset, LatentDataset | None]:
    """Training and held-out textures with their latents and text embeddings, encoded where the cache has none.

    The ranks share the work; every one of them can read it all afterwards.
    """
    store = TensorStore(Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir() / "encoded")
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    progress = accelerator.is_main_process
    for part in (base.vae, base.text_encoder):
        part.requires_grad_(False)
        part.to(accelerator.device)
    every = [*records, *held_out]
    resolution, background = config.data.resolution, config.data.background
    texture_keys = cache_textures(
        every, store, base.vae, resolution=resolution, background=background, mine=mine, progress=progress
    )
    captions = ["", *(caption for record in every for caption in record.captions)]
    caption_keys = cache_captions(captions, store, base.tokenizer, base.text_encoder, mine=mine, progress=progress)
    accelerator.wait_for_everyone()
    latent = resolution // 2 ** (len(base.vae.config.block_out_channels) - 1)
    to_latent = partial(
        latent_weights,
        size=(latent, latent),
        mode=config.mask.downsample,
        unmasked_weight=config.mask.unmasked_weight,
    )
    split = len(records)
    training = LatentDataset(
        records, store, texture_keys[:split], caption_keys, to_latent, config.data.posterior, progress
    )
    if not held_out:
        return training, None
    return training, LatentDataset(held_out, store, texture_keys[split:], caption_keys, to_latent, "mean")
