"""Layout nets: ControlNets that hear a map of the mesh, and what each says of the map that it wants.

That is in its config.json under the key `_texdiff`, which other programs pass over.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import ControlNetModel, DiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from texdiff.data.cache.keys import fingerprint
from texdiff.errors import InputError, one_line
from texdiff.files import atomic_folder
from texdiff.models.base import load_whole
from texdiff.models.exports import LAYOUT_NET, MAPS_KEY
from texdiff.models.nano import nano_folder

SCALE = 0.9
"""Half of the object's longest side in the cube from -1 to 1, of the maps that `texdiff.uv.layout.position` draws."""
_KINDS = ("position", "mask")
_SILU_GAIN = 1.676  # 1 / sqrt(E[silu(z)²]) of standard normal z


class LayoutSettings(Protocol):
    """Settings of a layout net; `texdiff.config.LayoutConfig` says what each does."""

    @property
    def maps(self) -> str: ...
    @property
    def init(self) -> str | None: ...
    @property
    def scale(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class Maps:
    """What a net's maps show."""

    kind: str = "position"
    """position: where on the object a texel lies, from 0 to 1 along x, y (up) and z, 0 exactly in the void; mask: 1
    where the UV map uses the texture."""
    scale: float = SCALE
    """Of positions, half of the object's longest side in the cube from -1 to 1."""

    def of(self, positions: Tensor) -> Tensor:
        """The maps [B, 3, H, W] of position maps as the dataset has them, or of masks where only they matter."""
        covered = (positions > 0).any(dim=1, keepdim=True)  # positions are at least 0.05 there
        if self.kind == "mask":
            return covered.expand_as(positions).to(positions.dtype)
        if self.scale == SCALE:
            return positions
        return torch.where(covered, (positions - 0.5) * (self.scale / SCALE) + 0.5, torch.zeros_like(positions))


def maps_of(net: ControlNetModel) -> Maps:
    """What the net says of its maps; those of `texdiff.uv.layout.position` where it says nothing."""
    return _read_maps(net.config) or Maps()


def make_layout_net(
    unet: UNet2DConditionModel,
    latent_factor: int,
    maps: Maps,
    seed: int | None = 0,
    widths: tuple[int, ...] = (16, 32, 96, 256),
) -> ControlNetModel:
    """A new net beside `unet`: its encoder again, and layers of zeros where it meets the denoiser, so that it changes
    nothing before its first step. Its hint encoder, drawn from `seed`, halves the map until it has the latents' size;
    `widths` are its channels at each size, diffusers' where left out, the last for each further halving.

    With None for a seed its layers are on the meta device: names and shapes.
    """
    halvings = latent_factor.bit_length() - 1
    channels = widths[: halvings + 1] if halvings < len(widths) else widths + widths[-1:] * (halvings + 1 - len(widths))
    with torch.device("meta" if seed is None else unet.device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=channels, load_weights_from_unet=seed is not None
        )
        _keep_the_map_alive(net)
    net.register_to_config(**{MAPS_KEY: {"layout": asdict(maps)}})
    return net


def _keep_the_map_alive(net: ControlNetModel) -> None:
    """Draw the hint encoder's layers so that what differs in a map differs as much behind each of them, but for the
    last, which stays zero (He et al. 2015, for SiLU). As torch draws them a four-hundredth of it is left behind the
    last but one, and a net begins all but deaf to its map.
    """
    hint = net.controlnet_cond_embedding
    for layer in (hint.conv_in, *hint.blocks):
        fan_in = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
        torch.nn.init.normal_(layer.weight, std=_SILU_GAIN / fan_in**0.5)
        torch.nn.init.zeros_(layer.bias)


def load_layout_net(settings: LayoutSettings) -> ControlNetModel:
    """The net `settings.init` in float32, as `net_source` finds it, with maps as the settings want them.

    Raises InputError where it cannot be loaded, or wants other maps.
    """
    assert settings.init is not None
    source = net_source(settings.init, "layout.init")
    net = _load(source, "layout.init")
    said = _read_maps(net.config)
    if said is not None and said.kind != settings.maps:
        raise InputError(
            f"layout.maps {settings.maps}: {settings.init} was trained with {said.kind} maps; set it to {said.kind}"
        )
    known = said or Maps(kind=settings.maps)
    maps = Maps(kind=settings.maps, scale=known.scale if settings.scale is None else settings.scale)
    net.register_to_config(**{MAPS_KEY: {"layout": asdict(maps), "init": settings.init}})
    return net


def read_layout_net(name: str | Path, maps: Maps | None = None) -> ControlNetModel:
    """The net `name` in float32 for --layout; as `load_layout_net`, with these maps or those that it says of itself."""
    net = _load(net_source(str(name), "--layout"), "--layout")
    if maps is not None:
        net.register_to_config(**{MAPS_KEY: {"layout": asdict(maps)}})
    return net


def net_source(name: str, key: str) -> str:
    """The folder of the net that `name` means (itself, or the one in a run's folder, or nano's own), or a hub id.

    Raises InputError, naming `key`, where there is no such folder.
    """
    folder = nano_folder() if name == "nano" else Path(name).expanduser()
    for place in (folder / LAYOUT_NET, folder):
        if (place / "config.json").is_file():
            return str(place)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"{key} {name}: no layout net there; name a run of model.train controlnet, or a ControlNet")
    return name


def _load(source: str, key: str) -> ControlNetModel:
    try:
        net: ControlNetModel = load_whole(ControlNetModel, source).float()
    except Exception as error:  # hub, JSON, safetensors, shapes: each means that it cannot be had
        raise InputError(f"{key} {source}: cannot be loaded as a ControlNetModel ({one_line(error)[:200]})") from None
    if (channels := net.config.get("conditioning_channels")) not in (None, 3):
        raise InputError(f"{key} {source}: wants maps of {channels} channels; only nets of 3 are supported")
    if net.config.get("controlnet_conditioning_channel_order", "rgb") != "rgb":
        raise InputError(f"{key} {source}: wants its channels in another order than rgb, which is not supported")
    return net


def _read_maps(config: Mapping[str, Any]) -> Maps | None:
    """What a net's config says; None for a net of others, or one that says it in a way of its own."""
    try:
        said = config[MAPS_KEY]["layout"]
        maps = Maps(kind=str(said["kind"]), scale=float(said["scale"]))
    except (LookupError, TypeError, ValueError):
        return None
    return maps if maps.kind in _KINDS and maps.scale > 0 else None


def check_fit(net: ControlNetModel, unet: UNet2DConditionModel, latent_factor: int, name: str) -> None:
    """Raise InputError where the net was made for another kind of denoiser."""
    for key in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
        own, theirs = net.config[key], unet.config[key]
        if (list(own) if isinstance(own, tuple) else own) != (list(theirs) if isinstance(theirs, tuple) else theirs):
            raise InputError(f"{name}: is a layout net for another base ({key} {own}, the base's is {theirs})")
    halvings = len(net.config["conditioning_embedding_out_channels"]) - 1
    if 2**halvings != latent_factor:
        raise InputError(f"{name}: makes maps {2**halvings} times smaller, and the base's latents are {latent_factor}")


def pipeline_inputs(pipeline: DiffusionPipeline, positions: Tensor | None, scale: float = 1.0) -> dict[str, Any]:
    """What one of diffusers' ControlNet pipelines is given beside prompts, of position maps [B or 1, 3, H, W] at the
    image's size, as others are resized; nothing of None, for other pipelines."""
    if positions is None:
        return {}
    name = "control_image" if "control_image" in signature(pipeline.__call__).parameters else "image"
    return {name: maps_of(pipeline.controlnet).of(positions), "controlnet_conditioning_scale": scale}


def write_layout_net(net: ControlNetModel, folder: Path) -> None:
    """Write it as `ControlNetModel.from_pretrained(folder)` loads it, in float32: whole or not at all."""
    with atomic_folder(folder) as aside:
        net.save_pretrained(aside)


def describe_maps(net: ControlNetModel) -> dict[str, object]:
    """What a LoRA that is trained under the net says of it: where it was, its weights' hash, and its maps."""
    init = net.config[MAPS_KEY].get("init") if MAPS_KEY in net.config else None
    return {"net": init, "fingerprint": fingerprint(net), **asdict(maps_of(net))}
