"""The loss: its mask and its noise. `--help` shows the docstrings."""

from dataclasses import dataclass
from typing import Literal

from texdiff.bounds import NonNegative, Positive, Weight


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The UV mask in the loss."""

    downsample: Literal["nearest", "nearest-exact", "area", "any", "all"] = "nearest"
    """How the mask is brought to latent size, one cell for 8x8 pixels."""
    reduction: Literal["texel", "sample"] = "texel"
    """Mean over the effective batch: every covered latent texel counts alike, or every texture does."""
    weight: Literal["texel", "surface"] = "texel"
    """Within a texture every covered texel counts alike, or by how much of the mesh's surface it lands on, so that a
    big wall in a small island is not neglected, but up to 16 times the texture's median. What textures weigh beside
    each other stays. `surface` needs a dataset that `texdiff prepare` made from meshes."""
    dilation: int = 0
    """Latent cells by which the mask at latent size grows in each direction; a negative number shrinks it."""
    outside: Literal["nothing", "base_model"] = "nothing"
    """Outside the mask nothing is asked for, or the base model's own prediction, so that the void is neither learnt
    nor forgotten: `base_model` costs a second forward pass (0.4 of a step on a CPU), and needs model.train lora."""
    unmasked_weight: Weight | None = None
    """Weight of latent cells outside the mask. Default: 0, or 1 where mask.outside is `base_model`. With `nothing`
    there, it weighs the training target: 1 trains without masks."""
    pixel_weight: NonNegative = 0.0
    """Weight of the masked squared error in pixels of [-1, 1], decoded, beside that of latents. The VAE
    stays in memory, and its decoder runs twice and backwards in every pass: with Stable Diffusion 1.5 at 512 px, on a
    CPU, a pass then takes four times as long and 6 GiB more for each texture."""

    @property
    def outside_weight(self) -> float:
        """What a latent cell outside the mask weighs."""
        if self.unmasked_weight is None:
            return 1.0 if self.outside == "base_model" else 0.0
        return self.unmasked_weight


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise that is added, and its weight in the loss."""

    offset: NonNegative = 0.0
    """Standard deviation of noise that is common to a whole channel."""
    input_perturbation: NonNegative = 0.0
    """Standard deviation of further noise that the U-Net sees and is not asked to predict; 0.1 in its paper."""
    rescale_betas_zero_snr: bool = False
    """Stretch the schedule until its last step is noise alone, in training, samples and export. Not for a base that
    predicts epsilon."""
    timestep_sampling: Literal["uniform", "stratified"] = "uniform"
    """Timesteps: each sample's own, or one from each of as many equal parts of the range as the effective batch has
    samples, which costs nothing: in batches of 8 the loss varies 0.3 times as much, its gradient 0.9 times."""
    snr_gamma: Positive | None = None
    """Min-SNR weighting's gamma, 5 in its paper. Default: no weighting."""
