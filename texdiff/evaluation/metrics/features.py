"""Features of textures inside their masks, and the perceptual distance that is taken on them."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.evaluation.metrics.extractors import Extractor, load_extractor
from texdiff.evaluation.metrics.image import check_masks, check_pictures
from texdiff.uv.gutter import fill

Pictures = NDArray[np.uint8]  # [N, H, W, 3]
Masks = NDArray[np.bool_]  # [N, H, W]

_BATCH = 16


def features(
    pictures: Pictures, masks: Masks | None = None, extractor: Extractor | None = None, progress: bool = False
) -> NDArray[np.float64]:
    """Features [N, D] for `kid` and `fid`.

    With masks (bool [N, H, W]), the void of each picture is filled from its islands first: what stands there does not
    count, and all that is left of a mask is its islands' outlines. `extractor` is EfficientNet-Lite0 by default.

    Raises:
        ValueError: the pictures are not uint8 [N, H, W, 3] (such as floats in [0, 1]), or masks do not fit them.
        InputError: the default extractor is not installed.
    """
    pictures = check_pictures(pictures)
    if masks is not None:
        check_masks(masks, pictures)
    extractor = extractor or load_extractor()
    found = []
    starts = range(0, len(pictures), _BATCH)
    for start in tqdm(starts, desc="features", unit="batch", leave=False, disable=not progress):
        some = range(start, min(start + _BATCH, len(pictures)))
        batch = [pictures[i] if masks is None else fill(pictures[i], masks[i]) for i in some]
        found.append(extractor(to_tensor(np.stack(batch)))[0].double().numpy())
    return np.concatenate(found)


def perceptual_distance(
    pictures: Pictures, targets: Pictures, masks: Masks, extractor: Extractor | None = None
) -> NDArray[np.float64]:
    """How different the pictures look from their targets, inside the masks: [N], 0 for equal ones.

    The squared distance of feature maps with unit length along channels, weighted by the covered share of each cell,
    averaged over cells and then over the maps: LPIPS without learnt weights (Zhang et al., 2018). The void is the
    same in both, filled from the target's islands.

    Raises:
        ValueError: pictures or targets are not uint8 [N, H, W, 3] of one size, or the masks do not fit.
        InputError: the default extractor is not installed.
    """
    pictures, targets = check_pictures(pictures), check_pictures(targets)
    covered = check_masks(masks, pictures, targets)
    extractor = extractor or load_extractor()
    distances = []
    for picture, target, mask in zip(pictures, targets, covered, strict=True):
        void = fill(target, mask)
        pair = np.stack([np.where(mask[..., None], side, void) for side in (picture, target)])
        weight = torch.from_numpy(mask).float()[None, None]
        distances.append(np.mean([_distance(maps, weight) for maps in extractor(to_tensor(pair))[1]]))
    return np.array(distances)


def _distance(maps: Tensor, weight: Tensor) -> float:
    """Of the two maps [2, C, h, w]; `weight` [1, 1, H, W]."""
    one, other = F.normalize(maps.double(), dim=1)
    share = F.adaptive_avg_pool2d(weight, (maps.shape[2], maps.shape[3]))[0, 0].double()
    return float(((one - other).square().sum(dim=0) * share).sum() / share.sum())


def to_tensor(pictures: Pictures) -> Tensor:
    """float32 [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
