"""How the textures of `texdiff generate` are drawn: from noise or an image, under a layout net, at any size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from texdiff.inference.complete import PartialAtlas
from texdiff.inference.img2img import InitialImage, scale_image
from texdiff.inference.large import Refinement, composition_size
from texdiff.inference.layout_net import Layout
from texdiff.inference.sampler import Sampling, own_size, sample_batch
from texdiff.inference.target import RetextureTarget
from texdiff.uv.coverage import coverage_mask


class Drawing:
    """Textures by one pipeline and for one mesh, where there is one.

    Args:
        layout: a layout net, which needs a target.
        initial: an image to start from, at `size` where there is one, of which `strength` is drawn anew.
        partial: an atlas of which the pipeline, one for inpainting, draws what is missing.
        size: (height, width) of the textures; without it the pipeline's own, or the initial image's.
        refine_strength: of a larger texture than the pipeline draws at once, 0 to 1.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        sampling: Sampling,
        target: RetextureTarget | None = None,
        layout: Layout | None = None,
        initial: InitialImage | None = None,
        strength: float = 1.0,
        size: tuple[int, int] | None = None,
        refine_strength: float = 0.0,
        partial: PartialAtlas | None = None,
    ) -> None:
        self.partial = partial
        self.sampling, self.initial, self.strength, self.size = sampling, initial, strength, size
        self.plain = self.pipeline = pipeline
        redraws = initial is not None
        self.first = own_size(pipeline) if size is None or redraws else composition_size(pipeline, size)
        if redraws:
            refine_strength = strength
        is_large = size is not None and (size[0] > self.first[0] or size[1] > self.first[1])
        self.layout = None
        if layout is not None and target is not None:
            self.layout = layout.on(target, self.first)
            self.pipeline = self.layout.around(pipeline)
        self.refinement = None
        self.lines: list[str] = []
        """What to tell about it."""
        if size is not None and is_large and refine_strength:
            covered = np.ones(size, bool)
            control = None
            if target is not None:
                covered = coverage_mask(target.triangles, size, mode="conservative")
                if layout is not None:
                    control = layout.in_windows(target, size, pipeline.vae_scale_factor)
            self.refinement = Refinement(covered=covered, strength=refine_strength, control=control)
            side = own_size(pipeline)[0]
            first = "redrawn" if redraws else "composed at {1}x{0}, then refined".format(*self.first)
            self.lines.append(f"{size[1]}x{size[0]} texels: {first} in windows of {side} texels")

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[NDArray[np.uint8]]:
        """A texture for each prompt and its seed, uint8 [H, W, 3] each. Raises InputError where the model gives numbers
        that are not finite."""
        if self.partial is not None:
            return self.partial.complete(self.pipeline, prompts, seeds, self.sampling)
        if self.initial is None:
            inputs: dict[str, Any] = {} if self.layout is None else self.layout.inputs(self.pipeline)
            drawn = sample_batch(self.pipeline, prompts, seeds, *self.sampling, size=self.first, **inputs)
            if self.refinement is not None:
                return self.refinement.refine(self.plain, drawn, prompts, seeds, self.sampling)
            return drawn if self.size is None else [scale_image(texture, self.size) for texture in drawn]
        if self.refinement is None:
            return self.initial.img2img(self.pipeline, prompts, seeds, self.strength, self.sampling, self.layout)
        images = [self.initial.texture] * len(prompts)
        drawn = self.refinement.refine(self.plain, images, prompts, seeds, self.sampling)
        return [self.initial.around(texture) for texture in drawn]
