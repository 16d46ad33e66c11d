"""Redraw an existing atlas (img2img): what its UV map uses is sampled anew from it, and the void is left alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError
from texdiff.inference.target import RetextureTarget
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill
from texdiff.uv.image import ImageError, read_image

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from texdiff.inference.layout_net import Layout
    from texdiff.inference.sampler import Sampling


@dataclass(frozen=True, kw_only=True)
class InitialImage:
    """An atlas to start from."""

    texture: NDArray[np.uint8]  # [H, W, 3]
    covered: NDArray[np.bool_]  # [H, W], texels whose centre is mapped: what the model gets to see; all without a mesh
    touched: NDArray[np.bool_]  # [H, W], and every texel that the UV map touches at all: what is drawn anew

    def img2img(
        self,
        pipeline: "DiffusionPipeline",
        prompts: Sequence[str],
        seeds: Sequence[int],
        strength: float,
        sampling: "Sampling",
        layout: "Layout | None" = None,
    ) -> list[NDArray[np.uint8]]:
        """The atlas anew for each prompt and its seed, uint8 [H, W, 3] each; texels that are not touched stay the same.

        Drawn at the pipeline's own size, under a layout net if there is one. The void is filled for that, as in
        training, so that it does not influence the islands; it is put back afterwards.
        """
        import torch

        from texdiff.inference.sampler import own_size, sample_batch
        from texdiff.models.stable_diffusion import mean_latents

        small = scale_image(fill(self.texture, self.covered), own_size(pipeline))
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1  # before they lose bits
        latents = mean_latents(pipeline.vae, pixels)
        redrawing = from_latents(pipeline)
        image = latents.expand(len(prompts), -1, -1, -1)  # [B, 4, h, w]
        inputs: dict[str, Any] = {"image": image, "strength": strength}
        inputs |= {} if layout is None else layout.inputs(redrawing)
        drawn = sample_batch(redrawing, prompts, seeds, *sampling, **inputs)
        size = (self.texture.shape[0], self.texture.shape[1])
        return [self.around(scale_image(one, size)) for one in drawn]

    def around(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What is drawn, uint8 [H, W, 3], with the atlas where no texel is touched."""
        return np.where(self.touched[..., None], drawn, self.texture)


def from_latents(pipeline: "DiffusionPipeline") -> "DiffusionPipeline":
    """The pipeline of the same parts that starts from an image; of its latents, [B, C, h, w], as `image`, to which it
    adds the same noise on any device."""
    from texdiff.inference.sampler import initial_noise
    from texdiff.models.stable_diffusion import as_img2img, in_the_manner_of

    kind, parts = as_img2img(pipeline)

    class Img2Img(kind):  # type: ignore[misc, valid-type]
        def prepare_latents(
            self,
            image: Any,
            timestep: Any,
            batch_size: int,
            per_prompt: int,
            dtype: Any,
            device: Any,
            generator: Any,
            *more: object,
        ) -> Any:
            return self.scheduler.add_noise(image, initial_noise(generator, image.shape[1:]).to(image), timestep)

    return in_the_manner_of(pipeline, Img2Img(**parts))


def read_initial_image(
    image: Path | None, target: RetextureTarget | None, size: tuple[int, int] | None = None
) -> InitialImage:
    """The image, or without one the mesh's present texture, at its own size or another (height, width).

    Raises InputError where there is no such image, or no texture on the mesh.
    """
    if image is not None:
        try:
            texture = read_image(image)
        except (ImageError, OSError) as error:
            raise InputError(f"--init_image {image}: {error}") from None
    elif target is None:
        raise InputError("--strength: nothing to start from; give --init_image, or --mesh for its own texture")
    elif target.replaced is None:
        raise InputError(f"{target.path}: has no texture to start from; give --init_image")
    else:
        texture = target.replaced
    if size is not None:
        texture = scale_image(texture, size)
    size = (texture.shape[0], texture.shape[1])
    if target is None:
        return InitialImage(texture=texture, covered=np.ones(size, bool), touched=np.ones(size, bool))
    covered, touched = (coverage_mask(target.triangles, size, mode=mode) for mode in ("center", "conservative"))
    return InitialImage(texture=texture, covered=covered if covered.any() else touched, touched=touched)


def scale_image(texture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The texture at (height, width): by area where it shrinks, else cubic."""
    shrinks = size[0] * size[1] < texture.shape[0] * texture.shape[1]
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(texture, size[::-1], interpolation=kind), np.uint8)
