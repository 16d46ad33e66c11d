"""What a Stable Diffusion samples for an evaluation: new atlases, reconstructed ones, and what its VAE alone loses."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from texdiff.diffusion.draws import keyed_generator
from texdiff.errors import InputError
from texdiff.evaluation.metrics.image import Images
from texdiff.inference.sampler import inference_device
from texdiff.models.family import Family
from texdiff.models.layout_net import pipeline_inputs
from texdiff.models.stable_diffusion import as_img2img, in_the_manner_of, quick_sampler

STRENGTH = 0.5  # share of the noise schedule that a texture goes up and comes down again when it is reconstructed
_BATCH = 4


class EvaluationSampler:
    """A pipeline in float32 whose noise is keyed by seed and image, so that two of them start from the same.

    Args:
        family: the base, or what full fine-tuning made of one.
        resolution: side of all images in pixels.
        num_inference_steps: denoising steps of a new atlas.
        guidance_scale: weight of the prompt of a new atlas.
        seed: of all noise.
        layout_net: what the maps of meshes, [N, 3, R, R], are for; without one there are none.
    """

    def __init__(
        self,
        family: Family,
        resolution: int,
        num_inference_steps: int,
        guidance_scale: float,
        seed: int,
        layout_net: nn.Module | None = None,
    ) -> None:
        self.size = {"height": resolution, "width": resolution}
        self.steps, self.guidance_scale, self.seed = num_inference_steps, guidance_scale, seed
        self.pipeline: Any = family.pipeline(family.denoiser, layout_net).to(inference_device())
        self.pipeline.scheduler = quick_sampler(self.pipeline.scheduler)  # also that of a run's own samples
        self.pipeline.set_progress_bar_config(disable=True)

    def generate(self, prompts: Sequence[str], title: str, layouts: Tensor | None = None) -> Images:
        """A new atlas for each prompt."""

        def make(some: slice, noise: list[torch.Generator]) -> Any:
            return self.pipeline(
                list(prompts[some]),
                **self.size,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
                generator=noise,
                output_type="np",
                **pipeline_inputs(self.pipeline, None if layouts is None else layouts[some]),
            ).images

        return self._in_batches(len(prompts), "generate", title, make)

    def reconstruct(self, images: Images, prompts: Sequence[str], title: str, layouts: Tensor | None = None) -> Images:
        """Each image with noise added up to STRENGTH of the schedule, and taken away again by its prompt, without
        guidance (img2img): how well the model knows such textures, against a known target."""
        kind, parts = as_img2img(self.pipeline)
        pipeline = in_the_manner_of(self.pipeline, kind(**parts))
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

        def make(some: slice, noise: list[torch.Generator]) -> Any:
            return pipeline(
                list(prompts[some]),
                image=tensor[some],
                strength=STRENGTH,
                num_inference_steps=self.steps,
                guidance_scale=1.0,
                generator=noise,
                output_type="np",
                **pipeline_inputs(pipeline, None if layouts is None else layouts[some]),
            ).images

        return self._in_batches(len(images), "reconstruct", title, make)

    def encode_decode(self, images: Images) -> Images:
        """What is left of each image after the VAE alone: no texture of this base can be closer."""
        vae = self.pipeline.vae
        tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

        def make(some: slice, noise: list[torch.Generator]) -> Any:
            with torch.inference_mode():
                decoded: Tensor = vae.decode(vae.encode(tensor[some].to(vae.device)).latent_dist.mode()).sample
            return (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

        return self._in_batches(len(images), "vae", "VAE", make)

    def _in_batches(
        self, count: int, purpose: str, title: str, make: Callable[[slice, list[torch.Generator]], Any]
    ) -> Images:
        """uint8 [count, R, R, 3] from `make`, which is given a slice and a generator for each image in it, and
        gives floats in [0, 1]. Raises InputError where these are not finite."""
        made = []
        with tqdm(desc=title, total=count, unit="image", leave=False) as bar:
            for start in range(0, count, _BATCH):
                numbers = range(start, min(start + _BATCH, count))
                noise = [keyed_generator(self.seed, "evaluate", purpose, number) for number in numbers]
                images = np.asarray(make(slice(start, numbers.stop), noise))
                if not np.isfinite(images).all():
                    raise InputError(f"{title}: the model gives NaN instead of an image; its weights are broken")
                made.append(np.rint(images * 255).astype(np.uint8))
                bar.update(len(numbers))
        return np.concatenate(made)
