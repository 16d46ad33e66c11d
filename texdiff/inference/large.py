"""Textures larger than the base draws at once: composed at its own size, then refined window by window."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray
from torch import Tensor

from texdiff.diffusion.process import DDPM
from texdiff.errors import InputError
from texdiff.inference.img2img import from_latents, scale_image
from texdiff.inference.sampler import Sampling, own_size, prompt_inputs
from texdiff.inference.tiles import decode_tiled, encode_tiled
from texdiff.inference.windows import Control, WindowedDenoiser
from texdiff.uv.gutter import fill
from texdiff.uv.image import MAX_SIDE


def composition_size(pipeline: DiffusionPipeline, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels of the first pass for an image of `size`: of much the same shape, and of the pipeline's
    own area."""
    side, factor = own_size(pipeline)[0], pipeline.vae_scale_factor
    scale = side / (size[0] * size[1]) ** 0.5
    height, width = (max(1, round(length * scale / factor)) * factor for length in size)
    return height, width


def parse_size(size: int | str) -> tuple[int, int]:
    """(height, width) in pixels of a `size` such as 2048, or 2048x1024 for a width of 2048. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})(?:[xX](\d{1,6}))?", str(size))
    width, height = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise InputError(
            f"--size must be a side in pixels, or a width and a height such as 2048x1024, of at most {MAX_SIDE} "
            f"(got {size})"
        )
    return height, width


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How images become textures of a size that the base does not draw at once."""

    covered: NDArray[np.bool_]  # [H, W] of the texture, the texels that matter
    strength: float  # above 0 to 1
    control: Control | None = None

    def refine(
        self,
        pipeline: DiffusionPipeline,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[NDArray[np.uint8]]:
        """Images of any size drawn anew at `strength`, each for a prompt and its seed: uint8 [H, W, 3].

        Windows without a covered texel are left out. Memory beside the images is that of drawing as many of the base's
        own size. Raises InputError where the model gives numbers that are not finite.
        """
        drawn = self.latents(pipeline, images, prompts, seeds, sampling)
        cells, wanted = pipeline.unet.config.sample_size, self._wanted(pipeline.vae_scale_factor)
        height, width = self.covered.shape
        textures = [decode_tiled(pipeline.vae, latents[None], cells, wanted) for latents in drawn]
        return [texture[:height, :width] for texture in textures]

    def latents(
        self,
        pipeline: DiffusionPipeline,
        images: Sequence[NDArray[np.uint8]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> Tensor:
        """As `refine`, latents [B, C, h, w]."""
        clean = self.clean(pipeline, images)
        wanted = self._wanted(pipeline.vae_scale_factor)
        process = DDPM(pipeline.scheduler.alphas_cumprod, pipeline.scheduler.config.prediction_type)
        denoiser = WindowedDenoiser(pipeline.unet, wanted, clean, process, self.control)
        inputs: dict[str, Any] = prompt_inputs(prompts, seeds, *sampling)
        if "XL" in type(pipeline).__name__:  # what each window is told: as a texture of the base's own size
            inputs |= {"original_size": own_size(pipeline), "target_size": own_size(pipeline)}
        redrawing = _in_windows(pipeline, denoiser)
        latents: Tensor = redrawing(image=clean, strength=self.strength, output_type="latent", **inputs).images
        return latents

    def clean(self, pipeline: DiffusionPipeline, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """The latents [B, C, h, w] of the images at the texture's size, their void filled."""
        covered = self._padded(pipeline.vae_scale_factor)
        starts = (self._start(image, covered) for image in images)
        return torch.cat([encode_tiled(pipeline.vae, start, pipeline.unet.config.sample_size) for start in starts])

    def _padded(self, factor: int) -> NDArray[np.bool_]:
        """The covered texels, with a margin at the bottom and on the right where a latent cell would be divided."""
        height, width = self.covered.shape
        return np.pad(self.covered, ((0, -height % factor), (0, -width % factor)))

    def _wanted(self, factor: int) -> Tensor:
        """The latent cells with covered texels, bool [h, w]."""
        covered = self._padded(factor)
        cells = covered.reshape(covered.shape[0] // factor, factor, covered.shape[1] // factor, factor)
        return torch.from_numpy(cells.any(axis=(1, 3)))

    def _start(self, image: NDArray[np.uint8], covered: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The image at the size of `covered`, its void filled before it is resized, and after."""
        small = cv2.resize(covered.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_AREA) > 0
        return fill(scale_image(fill(image, small), (covered.shape[0], covered.shape[1])), covered)


def _in_windows(pipeline: DiffusionPipeline, denoiser: WindowedDenoiser) -> DiffusionPipeline:
    """The pipeline that starts from latents, with another denoiser, which is told how many steps there will be."""
    redrawing = from_latents(pipeline)

    class Windowed(type(redrawing)):  # type: ignore[misc]
        def get_timesteps(self, *arguments: Any, **more: Any) -> Any:
            timesteps, count = super().get_timesteps(*arguments, **more)
            denoiser.begin(len(timesteps))
            return timesteps, count

    redrawing.__class__ = Windowed
    redrawing.unet = denoiser
    redrawing.set_progress_bar_config(disable=True)  # it shows its own, by windows
    return redrawing
