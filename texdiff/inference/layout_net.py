"""Drawing under a layout net: which one, the map of the mesh, and diffusers' pipelines with both."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from diffusers import ControlNetModel, DiffusionPipeline
from safetensors import safe_open
from torch import Tensor

from texdiff.data.layout_input import map_input
from texdiff.errors import InputError
from texdiff.inference.target import RetextureTarget
from texdiff.inference.windows import Control, Window
from texdiff.models.base import PIPELINES
from texdiff.models.layout_net import (
    Maps,
    check_fit,
    describe_maps,
    maps_of,
    net_source,
    pipeline_inputs,
    read_layout_net,
)
from texdiff.models.stable_diffusion import in_the_manner_of, under_layout
from texdiff.uv.layout.draw import draw_map


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout net, and the map of a mesh."""

    net: ControlNetModel
    scale: float
    start: float  # shares of the sampling steps between which it is heard, as diffusers has them
    end: float
    positions: Tensor | None = None  # [1, 3, H, W]

    def on(self, target: RetextureTarget, size: tuple[int, int]) -> "Layout":
        """The same with the map of what is drawn on a mesh, at its size (height, width) in pixels."""
        return replace(self, positions=map_input(draw_map(target.surface, "position", size)))

    def in_windows(self, target: RetextureTarget, size: tuple[int, int], factor: int) -> Control:
        """What a windowed denoiser is given of the mesh's map at `size` (height, width), where a latent cell has
        `factor` pixels a side."""
        values = draw_map(target.surface, "position", size)
        values = np.pad(values, ((0, -size[0] % factor), (0, -size[1] % factor), (0, 0)))
        maps = maps_of(self.net)

        def control(
            noisy: Tensor,
            t: Tensor,
            window: Window,
            done: tuple[float, float],
            encoder_hidden_states: Tensor,
            added_cond_kwargs: dict[str, Tensor] | None = None,
            **_: object,
        ) -> dict[str, Any]:
            if done[0] < self.start or done[1] > self.end:
                return {}
            hint = maps.of(map_input(values[window.cells(factor)])).to(noisy).expand(len(noisy), -1, -1, -1)
            down, middle = self.net(
                noisy,
                t,
                encoder_hidden_states,
                hint,
                conditioning_scale=self.scale,
                added_cond_kwargs=added_cond_kwargs,
                return_dict=False,
            )
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

        return control

    def around(self, pipeline: Any) -> Any:
        """The pipeline with the net."""
        kind = type(pipeline).__name__
        parts = pipeline.components | PIPELINES[kind] | {"controlnet": self.net}
        made = getattr(diffusers, under_layout(kind))(**parts)
        return in_the_manner_of(pipeline, made)

    def inputs(self, pipeline: Any) -> dict[str, Any]:
        """What such a pipeline, or one made of it that starts from an image, is given beside prompts."""
        return pipeline_inputs(pipeline, self.positions, self.scale) | {
            "control_guidance_start": self.start,
            "control_guidance_end": self.end,
        }


def choose_layout(layout: str | None, lora: Path | None, has_mesh: bool) -> tuple[str | None, str | None]:
    """The net that --layout means, and where the LoRA was trained under one but cannot be drawn so, a line that says
    it. Without --layout it is the LoRA's own.

    Raises InputError where --layout cannot be used.
    """
    if layout == "none":
        return None, None
    own = _net_of(lora).get("net") if lora is not None and layout is None else None
    if own and not has_mesh:
        return None, f"LoRA {lora}: was trained under the layout net {own}, which needs --mesh; drawn without"
    if own:
        try:
            net_source(own, "--layout")
        except InputError:
            raise InputError(
                f"LoRA {lora}: was trained under the layout net {own}, which is not there; give --layout, or --layout "
                "none"
            ) from None
    if layout is not None and not has_mesh:
        raise InputError(f"--layout {layout}: needs --mesh, whose map it is given")
    return layout or own, None


def load_layout(
    name: str, pipeline: DiffusionPipeline, lora: Path | None, scale: float = 1.0, start: float = 0.0, end: float = 1.0
) -> tuple[Layout, str]:
    """The net `name` for the pipeline, with the maps that the LoRA was trained with, and a line that says so.

    Raises InputError where the net cannot be loaded, or is for another base.
    """
    under = {} if lora is None else _net_of(lora)
    maps = Maps(kind=under["kind"], scale=float(under["scale"])) if {"kind", "scale"} <= under.keys() else None
    net = read_layout_net(name, maps)
    check_fit(net, pipeline.unet, pipeline.vae_scale_factor, f"--layout {name}")
    said = describe_maps(net)
    line = f"layout net {name}: {said['kind']} map"
    if under.get("fingerprint", said["fingerprint"]) != said["fingerprint"]:
        line += f"; warning: it is not the net that the LoRA {lora} was trained under"
    net.to(pipeline.device, pipeline.dtype)
    return Layout(net=net, scale=scale, start=start, end=end), line


def _net_of(lora: Path) -> dict[str, str]:
    """What a LoRA file says of the layout net that it was trained under, by key; nothing where there was none."""
    prefix = "texdiff.layout."
    with safe_open(lora, framework="pt") as weights:
        metadata = weights.metadata() or {}
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
