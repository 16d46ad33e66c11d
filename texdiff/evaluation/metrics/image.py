"""How close a texture comes to a known one, over the texels of the mask alone: PSNR and SSIM."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Masks = NDArray[np.bool_]

_SIGMA = 1.5  # of SSIM's window, in texels
_RADIUS = 5  # so that the window is 11 x 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(pictures: Pictures, targets: Pictures, masks: Masks) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB, [N]: 10 log10(255² / mean squared error over covered texels and channels).

    pictures and targets uint8 [N, H, W, 3], masks bool [N, H, W]; infinite where they are equal.

    Raises:
        ValueError: another type (such as floats in [0, 1]) or shape, or a mask is empty.
    """
    pictures, targets = check_pictures(pictures), check_pictures(targets)
    masks = check_masks(masks, pictures, targets)
    errors = [
        np.square(picture[mask].astype(np.float64) - target[mask]).mean()
        for picture, target, mask in zip(pictures, targets, masks, strict=True)
    ]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / np.array(errors))


def ssim(pictures: Pictures, targets: Pictures, masks: Masks) -> NDArray[np.float64]:
    """Structural similarity, [N], 1 for equal pictures: the mean over covered texels and channels.

    As Wang et al. (2004), with their Gaussian window of 11 x 11 texels (σ 1.5), except that a window weighs its
    covered texels alone: means, variances and covariance are those of the island, and nothing of the void counts.
    Arguments and errors as for `psnr`.
    """
    pictures, targets = check_pictures(pictures), check_pictures(targets)
    masks = check_masks(masks, pictures, targets)
    means = [
        ssim_map(picture, target, mask)[mask].mean()
        for picture, target, mask in zip(pictures, targets, masks, strict=True)
    ]
    return np.array(means)


def ssim_map(picture: Pictures, target: Pictures, mask: Masks) -> NDArray[np.float64]:
    """SSIM at each texel and channel of two uint8 [H, W, 3], float64 [H, W, 3]; it means something inside the mask."""
    weight = mask[..., None].astype(np.float64)
    total = np.maximum(_blur(weight), 1e-300)
    x, y = picture * weight, target * weight
    mean_x, mean_y = _blur(x) / total, _blur(y) / total
    var_x, var_y = _blur(x * x) / total - mean_x**2, _blur(y * y) / total - mean_y**2
    covariance = _blur(x * y) / total - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return similar / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums over the window, [H, W, C]; nothing lies outside the picture."""
    side = 2 * _RADIUS + 1
    blurred = cv2.GaussianBlur(values, (side, side), _SIGMA, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64).reshape(values.shape)


def check_pictures(pictures: Pictures) -> Pictures:
    """The same, uint8 [N, H, W, 3]; ValueError for anything else."""
    pictures = np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3 or not len(pictures):
        raise ValueError(f"pictures are {pictures.dtype} {pictures.shape}; use uint8 [N, H, W, 3] with 0-255")
    return pictures


def check_masks(masks: Masks, *pictures: Pictures) -> Masks:
    """The same, bool [N, H, W], none of them empty, for pictures of one shape; ValueError for anything else."""
    if len({one.shape for one in pictures}) > 1:
        raise ValueError(f"pictures have shapes {', '.join(str(one.shape) for one in pictures)}; use one size")
    masks = np.asarray(masks)
    if masks.dtype != np.bool_ or masks.shape != pictures[0].shape[:3]:
        raise ValueError(f"masks are {masks.dtype} {masks.shape}; use bool {pictures[0].shape[:3]}")
    if not masks.any(axis=(1, 2)).all():
        raise ValueError("a mask is empty")
    return masks
