"""Stable Diffusion XL: as Stable Diffusion, with two text encoders and a U-Net that is told the picture's size."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from texdiff.data.cache.encoders import Encodes
from texdiff.errors import InputError
from texdiff.models.base import Base
from texdiff.models.family import Conditioning
from texdiff.models.prompts import PromptReading, same_length
from texdiff.models.stable_diffusion import StableDiffusion
from texdiff.uv.hiding import Hiding


class StableDiffusionXL(StableDiffusion):
    """As `texdiff.models.family.Family`, over a base's parts."""

    models: ClassVar[dict[Encodes, tuple[str, ...]]] = {
        "images": ("vae",),
        "prompts": ("text_encoder", "text_encoder_2"),
    }
    besides: ClassVar[dict[Encodes, tuple[str, ...]]] = {"images": (), "prompts": ("tokenizer", "tokenizer_2")}

    def __init__(
        self,
        base: Base,
        rescale_betas_zero_snr: bool = False,
        reading: PromptReading | None = None,
        hiding: Hiding | None = None,
    ) -> None:
        if base.vae_config.get("latents_mean") is not None:
            raise InputError(
                f"{base.source}: shifts its latents (latents_mean in its VAE's config.json), as SDXL does not and "
                "texdiff neither; train another base"
            )
        if reading is not None and reading.clip_skip is not None:
            raise InputError(
                f"model.clip_skip must be null for Stable Diffusion XL (got {reading.clip_skip}), which reads the last "
                "layer but one of its encoders anyway"
            )
        super().__init__(base, rescale_betas_zero_snr, reading, hiding)
        self._size_ids: dict[tuple[int, int, int, torch.device], Tensor] = {}

    @property
    def zeros_for_no_text(self) -> bool:
        """Whether the base was trained, and is sampled by its pipeline, with zeros in the place of an absent text."""
        return bool(self.base.index.get("force_zeros_for_empty_prompt", True))

    def encoder_state(self, encodes: Encodes) -> tuple[object, ...]:
        return *super().encoder_state(encodes), self.zeros_for_no_text

    def encoder_content(self, encodes: Encodes) -> tuple[object, ...]:
        more = (self.zeros_for_no_text,) if encodes == "prompts" else ()
        return *super().encoder_content(encodes), *more

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`text` float32 [B, L, D], the last hidden state but one of both encoders side by side, as
        texdiff.models.prompts reads them, and `pooled` float32 [B, 1, P], the second encoder's projection.

        Of an empty prompt both are zeros where the base has it so: it is what guidance goes away from.
        """
        base = self.base
        encoders = base.text_encoder, base.text_encoder_2
        parts, pooled = self.reading.encode_xl((base.tokenizer, base.tokenizer_2), encoders, prompts)
        found = {"text": torch.stack(same_length(parts)).float(), "pooled": pooled[:, None].float()}
        if self.zeros_for_no_text:
            said = torch.tensor([prompt != "" for prompt in prompts], device=pooled.device)
            found = {name: tensor * said[:, None, None] for name, tensor in found.items()}
        return found

    def denoiser_inputs(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        sizes = self._time_ids(noisy) if conditioning.sizes is None else conditioning.sizes
        added = {"text_embeds": conditioning.prompt["pooled"][:, 0], "time_ids": sizes}
        return {**super().denoiser_inputs(noisy, t, conditioning), "added_cond_kwargs": added}

    def _time_ids(self, noisy: Tensor) -> Tensor:
        """(height, width, top, left, height, width) [B, 6] of the pictures of these latents: they were brought to their
        size whole. Integers, since bfloat16 has none between 1,024 and 1,032."""
        count, _, height, width = noisy.shape
        key = count, height, width, noisy.device
        if key not in self._size_ids:  # copying to a GPU waits for it
            size = [height * self.latent_factor, width * self.latent_factor]
            self._size_ids[key] = torch.tensor([[*size, 0, 0, *size]] * count, device=noisy.device)
        return self._size_ids[key]
