"""The masked mean squared error, and the weight each sample has in an effective batch.

E_b = Σ_{h,w} m_b(h,w) · mean_c (prediction − target)²   error of sample b
N_b = Σ_{h,w} m_b(h,w)                                    its texels

texel:  Σ_b w_b E_b / Σ_b N_b          every texel counts alike
sample: mean_b w_b E_b / N_b           every sample counts alike

Both sums run over the effective batch: all micro-batches of an accumulation window and all ranks.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["texel", "sample"]


def masked_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """E_b, float32 [B], of prediction and target [B, C, h, w] under mask [B, 1, h, w].

    Where the mask is 0 the gradient is exactly 0, whatever the values there: the difference is replaced, not
    multiplied, since 0 · inf is not 0.
    """
    difference = prediction.float() - target.float()
    difference = torch.where(mask > 0, difference, torch.zeros((), device=difference.device))
    return (difference.square().mean(dim=1, keepdim=True) * mask).sum(dim=(1, 2, 3))


def sample_weights(texels: Tensor, reduction: str = "texel") -> Tensor:
    """Weights a_b [B] with which Σ_b a_b · w_b · E_b is the loss of the effective batch.

    `texels` holds N_b [B] of every sample of the effective batch, not only of one micro-batch or rank.
    Raises ValueError for another reduction, or where there is nothing to average over.
    """
    if reduction == "texel":
        if not texels.sum() > 0:
            raise ValueError("the masks of this batch have no texel at all")
        return torch.ones_like(texels) / texels.sum()
    if reduction == "sample":
        if not (texels > 0).all():
            raise ValueError("a mask of this batch has no texel at all")
        return 1 / (texels * len(texels))
    raise ValueError(f"reduction {reduction!r} is neither texel nor sample")


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, reduction: str = "texel") -> Tensor:
    """Masked MSE, a scalar, where this batch is the whole effective batch.

    prediction, target [B, C, h, w]; mask [B, 1, h, w] in [0, 1]. An all-ones mask gives `F.mse_loss`.
    Raises ValueError where the masks have no texel.
    """
    weights = sample_weights(mask.float().sum(dim=(1, 2, 3)), reduction)
    return (weights * masked_error(prediction, target, mask)).sum()


def region_errors(prediction: Tensor, target: Tensor, covered: Tensor) -> Tensor:
    """Squared errors, summed over latent cells, and the number of these cells: float32 [2, 3].

    prediction, target [B, C, h, w]; covered [B, 1, h, w], the mean weight of each cell's texels. The columns are cells
    of full weight, of some (the islands' border, and what is grey in the mask), and of none. A sum over its cells is a
    mean squared error; sums of several batches add up.
    """
    squares = (prediction.detach().float() - target.float()).square().mean(dim=1, keepdim=True)  # [B, 1, h, w]
    regions = torch.stack([covered >= 1, (covered > 0) & (covered < 1), covered <= 0])  # [3, B, 1, h, w]
    zero = torch.zeros((), device=squares.device)
    sums = torch.where(regions, squares, zero).sum(dim=(1, 2, 3, 4))
    return torch.stack([sums, regions.sum(dim=(1, 2, 3, 4)).float()])
