"""Pictures of any size as one tensor on the device, from which square crops are drawn without the CPU's help."""

from collections.abc import Iterable
from itertools import permutations

import cv2
import numpy as np
import torch

SIDE = 256
EXCHANGED = 1 / 3
"""Share of the crops whose colour channels are exchanged."""


class Pool:
    """Pictures (uint8 RGB [H, W, 3]) with weights, each kept whole at 256 texels and, where larger, as it is too.

    Kept so, because a crop is then a matter of whole texels: what is drawn has been resampled once, by areas, like the
    atlases that a model gets to see.
    """

    def __init__(self, pictures: Iterable[tuple[np.ndarray, float]], device: str) -> None:
        texels, sizes, weights = [], [], []
        for picture, weight in pictures:
            versions = [whole(picture)]
            if max(picture.shape[:2]) > 1.2 * SIDE:
                versions.append(picture)
            for version, share in zip(versions, (0.6, 0.4) if len(versions) == 2 else (1.0,), strict=True):
                texels.append(version.reshape(-1, 3))
                sizes.append(version.shape[:2])
                weights.append(weight * share)
        self.texels = torch.from_numpy(np.concatenate(texels)).to(device)
        height, width = torch.tensor(sizes, device=device).T
        self.height, self.width = height.contiguous(), width.contiguous()
        self.first = (height * width).cumsum(0) - height * width
        cumulative = torch.tensor(weights, dtype=torch.float64).cumsum(0)
        self.cumulative = (cumulative / cumulative[-1]).to(device)
        self.orders = torch.tensor(list(permutations(range(3))), device=device)  # the first leaves them as they are
        self.device = device

    def draw(self, count: int, side: int) -> torch.Tensor:
        """`count` crops in [-1, 1], float32 [count, 3, side, side] channels last, in any of the eight orientations.

        A picture that is smaller than the crop goes on mirrored at its edges. A third has its colour channels
        exchanged, since a few thousand pictures do not have every material in every colour.
        """
        uniform = torch.rand(8, count, device=self.device)
        picture = torch.searchsorted(self.cumulative, uniform[0].double()).clamp(max=len(self.cumulative) - 1)
        height, width = self.height[picture], self.width[picture]
        along = torch.arange(side, device=self.device)
        y = (uniform[1] * (height - side + 1).clamp(min=1)).long()[:, None] + _either_way(along, side, uniform[3])
        x = (uniform[2] * (width - side + 1).clamp(min=1)).long()[:, None] + _either_way(along, side, uniform[4])
        y, x = _mirrored(y, height[:, None]), _mirrored(x, width[:, None])
        rows = (self.first[picture][:, None] + y * width[:, None])[:, :, None] + x[:, None, :]
        rows = torch.where(uniform[5, :, None, None] < 0.5, rows, rows.transpose(1, 2))
        channels = self.orders[((uniform[6] < EXCHANGED) * (1 + 5 * uniform[7])).long()]
        crops = self.texels[rows].gather(3, channels[:, None, None, :].expand(*rows.shape, 3))
        return (crops.float() / 127.5 - 1).permute(0, 3, 1, 2)


def whole(picture: np.ndarray) -> np.ndarray:
    """The picture with its longer side at 256 texels."""
    scale = SIDE / max(picture.shape[:2])
    if scale == 1:
        return picture
    height, width = (max(1, round(scale * n)) for n in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _either_way(along: torch.Tensor, side: int, uniform: torch.Tensor) -> torch.Tensor:
    return torch.where(uniform[:, None] < 0.5, along, side - 1 - along)


def _mirrored(index: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    index = index % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)
