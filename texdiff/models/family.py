"""The seam between model families and everything else: what a family provides, and how one is chosen."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from texdiff.data.cache.encoders import Encoders
from texdiff.diffusion.process import Process
from texdiff.models.base import load_base
from texdiff.models.layout_net import LayoutSettings
from texdiff.models.prompts import PromptReading
from texdiff.uv.hiding import Hiding


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """What a denoiser is given beside noisy latents and their times; B samples."""

    prompt: dict[str, Tensor]
    """What `Family.encode_prompts` gives, by name, [B, ...] each."""
    layout: Tensor | None = None
    """Position maps [B, 3, H, W] in [0, 1], 0 in the void, as `texdiff.uv.layout.position` draws them."""
    known: Tensor | None = None
    """For an inpainting base [B, 1 + C, h, w]: 1 where a latent cell is to be drawn, 0 where it is known, and the mean
    of the posterior of what is known, not scaled; see texdiff.data.cache.known."""
    sizes: Tensor | None = None
    """Of windows of larger pictures, int64 [B, 6]: height and width of the picture, first row and column of the window,
    its height and width, in pixels; None where pictures were brought to their size all of them."""

    def expand(self, count: int) -> "Conditioning":
        """`count` times that of a single sample, without copying it."""
        return self._each(lambda t: t.expand(count, *t.shape[1:]))

    def __getitem__(self, part: slice) -> "Conditioning":
        """That of some of the samples."""
        return self._each(lambda t: t[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        prompt = {name: change(t) for name, t in self.prompt.items()}
        layout, known, sizes = (None if t is None else change(t) for t in (self.layout, self.known, self.sizes))
        return Conditioning(prompt=prompt, layout=layout, known=known, sizes=sizes)


class Family(Encoders, Protocol):
    """A base model as one family of architectures sees it. Its parts are loaded when first needed.

    C channels and h = H / latent_factor, w = W / latent_factor are those of its latents.
    """

    @property
    def process(self) -> Process:
        """The noise process that it was trained on, and is trained on."""
        ...

    @property
    def denoiser(self) -> nn.Module:
        """The base's own: float32, on the CPU, and the one object that is then trained."""
        ...

    def load_denoiser(self, dtype: torch.dtype) -> None:
        """Load the denoiser in another precision, if it is not loaded yet: for one whose weights stay frozen."""
        ...

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """The tokens of each, without marks of start and end. Known without the encoder."""
        ...

    def left_out(self, prompts: Sequence[str]) -> list[str]:
        """A line for each prompt of which `encode_prompts` reads only the beginning. Known without the encoder."""
        ...

    def denoiser_outline(self) -> nn.Module:
        """Another of its kind on the meta device: layers' names and shapes, known without its weights."""
        ...

    def encoders_on(self, device: torch.device) -> AbstractContextManager[None]:
        """All encoders and the decoder are loaded and on `device` inside, and back where they were afterwards."""
        ...

    def latents(self, mean: Tensor, std: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The denoiser's latents [B, C, h, w], a draw from the posterior; without `std` and `noise` its mean."""
        ...

    def load_decoder(self, device: torch.device, gradient_checkpointing: bool) -> None:
        """Bring the decoder to a device, to stay there."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W], in [-1, 1] but for overshoot, of latents [B, C, h, w]; differentiable."""
        ...

    def denoiser_inputs(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The denoiser's arguments, by name: tensors, and dicts of tensors."""
        ...

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        layout_net: nn.Module | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """What a denoiser of this family predicts [B, C, h, w] for noisy latents at times t [B].

        With a layout net its residuals, times `scale`, are added, for `conditioning.layout`; an all-void map where that
        is None.
        """
        ...

    def layout_net(self, settings: LayoutSettings, seed: int = 0) -> nn.Module:
        """The layout net for this base that the settings name, or a new one from `seed`: float32, on the CPU.

        Raises InputError where it cannot be loaded, or does not fit the base.
        """
        ...

    def check_layout_net(self, settings: LayoutSettings) -> None:
        """Raise what `layout_net` would. What is loaded for that is kept for the next call with the same settings."""
        ...

    def layout_net_outline(self) -> nn.Module:
        """A new one on the meta device: layers' names and shapes, known without the base's weights."""
        ...

    def pipeline(self, denoiser: nn.Module, layout_net: nn.Module | None = None) -> DiffusionPipeline:
        """diffusers' pipeline around a denoiser, with the sampler that the base names; with a layout net its
        ControlNet pipeline, whose `image` is what `Maps.of` makes of a position map."""
        ...


def load_family(
    name: str,
    revision: str | None = None,
    variant: str | None = None,
    rescale_betas_zero_snr: bool = False,
    max_token_length: int = 77,
    clip_skip: int | None = None,
    prediction_type: str | None = None,
    vae: str | None = None,
    hiding: Hiding | None = None,
) -> Family:
    """The base `name` (a folder, a hub id, a .safetensors file, or `nano`) as its family.

    With `rescale_betas_zero_snr` its noise schedule ends in noise alone; `max_token_length` and `clip_skip` say how it
    reads prompts, as the settings of these names; `hiding` is for an inpainting base, which has a default for it; the
    rest is as in `load_base`. Raises InputError where there is no such base, where its family isn't supported, for a
    schedule that it can't be trained on, for a text encoder without so many layers, and for `hiding` where nothing is
    hidden from it.
    """
    # A new family: its class here, its pipeline in base.py.
    from texdiff.models.stable_diffusion import StableDiffusion
    from texdiff.models.stable_diffusion_xl import StableDiffusionXL

    base = load_base(name, revision, variant, prediction_type, vae)
    base.check_variant()
    kind = StableDiffusionXL if "StableDiffusionXL" in base.index["_class_name"] else StableDiffusion
    return kind(base, rescale_betas_zero_snr, PromptReading.of(max_token_length, clip_skip), hiding)
