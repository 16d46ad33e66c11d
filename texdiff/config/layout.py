"""What the denoiser gets beside noisy latents: the map of the mesh through a layout net, or a texture in parts.

`--help` shows the docstrings.
"""

from dataclasses import dataclass
from typing import Literal

from texdiff.bounds import Count, Positive, Share


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """The map of each texture's mesh, and the layout net (a ControlNet) that the denoiser hears it through."""

    maps: Literal["none", "position", "mask"] = "none"
    """What the net gets: where on the object each texel lies, which needs a dataset that `texdiff prepare` made from
    meshes; or the UV mask alone. `none` trains without a layout."""
    init: str | None = None
    """Layout net to start from, or with model.train lora to train under, unchanged: a run's folder, a folder or hub id
    that diffusers loads as a ControlNetModel, or nano for that base's own. null, with model.train controlnet: a new
    one, made of the base."""
    scale: Positive | None = None
    """Half of the object's longest side in the position map's cube from -1 to 1. Default: what the net says of itself,
    or 0.9. Nets of others want their own, Paint3D's 0.6."""
    dropout: Share = 0.0
    """Share of visits whose map is all void, so that the net can be used without one."""
    learning_rate: Positive | None = None
    """Learning rate of a layout net that is trained, at its highest. Default: optim.learning_rate."""


@dataclass(frozen=True, kw_only=True)
class InpaintConfig:
    """What an inpainting base is not shown of a texture; for such bases alone."""

    mode: Literal["layout", "complete"] | None = None
    """`complete` hides some islands, so that the model learns to draw them to the others; `layout` hides all of them
    and tells it the UV mask. Default: complete."""
    variants: Count | None = None
    """Choices of islands for each texture, encoded once each; every visit draws one. Default: 4."""
