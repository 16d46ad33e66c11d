"""Inpainting bases, whose denoiser is told beside noisy latents what it is to draw and what it is to keep."""

from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from texdiff.errors import InputError
from texdiff.models.base import Base
from texdiff.uv.hiding import Hiding


def choose_hiding(base: Base, hiding: Hiding | None) -> Hiding | None:
    """How textures are hidden from the base: as `hiding` says, by default some islands; None where it is not one for
    inpainting. Raises InputError for settings that such a base does not have, and for a U-Net that is of neither kind.
    """
    channels, kind = base.unet_config.get("in_channels", 4), base.index["_class_name"]
    latents = base.vae_config.get("latent_channels", 4)
    if channels != (2 * latents + 1 if "Inpaint" in kind else latents):
        raise InputError(f"{base.source}: its U-Net takes {channels} channels, which does not fit a {kind}")
    if "Inpaint" in kind:
        return hiding or Hiding()
    if hiding is not None:
        raise InputError(f"inpaint.mode: {base.source} is no inpainting base; leave the section inpaint out")
    return None


def describe_hiding(hiding: Hiding) -> str:
    """What of each texture is hidden, in a few words."""
    if hiding.mode == "layout":
        return "every island is hidden, so that the base is told the UV mask alone"
    return f"some islands are hidden, in {hiding.variants} ways a texture"


def with_known(noisy: Tensor, known: Tensor | None, scaling_factor: float) -> Tensor:
    """The denoiser's input [B, 2 C + 1, h, w] as diffusers' inpainting pipelines have it, of noisy latents [B, C, h, w]
    and what is known of a texture [B, 1 + C, h, w] (`texdiff.models.family.Conditioning`)."""
    assert known is not None, "an inpainting base needs what is known"
    return torch.cat([noisy, known[:, :1].to(noisy), (scaling_factor * known[:, 1:]).to(noisy)], dim=1)


def inpainting_inputs(pipeline: Any, pixels: NDArray[np.float32], hidden: NDArray[np.bool_]) -> dict[str, Any]:
    """What one of diffusers' inpainting pipelines is given beside prompts, to draw what is `hidden` [H, W] of a texture
    of which the rest is known, float32 [H, W, 3] in [-1, 1] as `texdiff.uv.hiding.known_pixels` has it. Its latents are
    the posterior's mean, as in training, where the pipelines would draw."""
    from texdiff.models.stable_diffusion import mean_latents  # which imports this module

    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return {
        "image": picture / 2 + 0.5,
        "mask_image": torch.from_numpy(hidden.astype(np.float32))[None, None],
        "masked_image_latents": mean_latents(pipeline.vae, picture),
        "strength": 1.0,  # from noise alone; for Stable Diffusion XL it is less otherwise
    }


def is_inpainting(pipeline: DiffusionPipeline) -> bool:
    """Whether the pipeline is one for inpainting."""
    return "Inpaint" in type(pipeline).__name__
