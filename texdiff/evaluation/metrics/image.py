"""How close a texture comes to a known one, over the texels of the mask alone: PSNR and SSIM."""

import cv2
import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, 3]
Masks = NDArray[np.bool_]  # [N, H, W]

_SIGMA = 1.5  # of SSIM's window, in texels
_RADIUS = 5  # so that the window is 11 x 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def psnr(images: Images, targets: Images, masks: Masks) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB, [N]: 10 log10(255² / mean squared error over covered texels and channels).

    images and targets uint8 [N, H, W, 3], masks bool [N, H, W]; infinite where they are equal.

    Raises:
        ValueError: another type (such as floats in [0, 1]) or shape, or a mask is empty.
    """
    images, targets = check_images(images), check_images(targets)
    masks = check_masks(masks, images, targets)
    errors = [
        np.square(image[mask].astype(np.float64) - target[mask]).mean()
        for image, target, mask in zip(images, targets, masks, strict=True)
    ]
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / np.array(errors))


def ssim(images: Images, targets: Images, masks: Masks) -> NDArray[np.float64]:
    """Structural similarity, [N], 1 for equal images: the mean over covered texels and channels.

    As Wang et al. (2004), with their Gaussian window of 11 x 11 texels (σ 1.5), except that a window weighs its
    covered texels alone: means, variances and covariance are those of the island, and nothing of the void counts.
    Arguments and errors as for `psnr`.
    """
    images, targets = check_images(images), check_images(targets)
    masks = check_masks(masks, images, targets)
    means = [
        ssim_map(image, target, mask)[mask].mean() for image, target, mask in zip(images, targets, masks, strict=True)
    ]
    return np.array(means)


def ssim_map(image: Images, target: Images, mask: Masks) -> NDArray[np.float64]:
    """SSIM at each texel and channel of two uint8 [H, W, 3], float64 [H, W, 3]; it means something inside the mask."""
    weight = mask[..., None].astype(np.float64)
    total = np.maximum(_blur(weight), 1e-300)
    x, y = image * weight, target * weight
    mean_x, mean_y = _blur(x) / total, _blur(y) / total
    var_x, var_y = _blur(x * x) / total - mean_x**2, _blur(y * y) / total - mean_y**2
    covariance = _blur(x * y) / total - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return similar / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))


def _blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sums over the window, [H, W, C]; nothing lies outside the image."""
    side = 2 * _RADIUS + 1
    blurred = cv2.GaussianBlur(values, (side, side), _SIGMA, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred, np.float64).reshape(values.shape)


def check_images(images: Images) -> Images:
    """The same, uint8 [N, H, W, 3]; ValueError for anything else."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise ValueError(f"images are {images.dtype} {images.shape}; use uint8 [N, H, W, 3] with 0-255")
    return images


def check_masks(masks: Masks, *images: Images) -> Masks:
    """The same, bool [N, H, W], none of them empty, for images of one shape; ValueError for anything else."""
    if len({one.shape for one in images}) > 1:
        raise ValueError(f"images have shapes {', '.join(str(one.shape) for one in images)}; use one size")
    masks = np.asarray(masks)
    if masks.dtype != np.bool_ or masks.shape != images[0].shape[:3]:
        raise ValueError(f"masks are {masks.dtype} {masks.shape}; use bool {images[0].shape[:3]}")
    if not masks.any(axis=(1, 2)).all():
        raise ValueError("a mask is empty")
    return masks
