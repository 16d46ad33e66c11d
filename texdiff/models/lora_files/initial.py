"""A LoRA file as what a training starts from: its adapters by the layers of a denoiser."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from texdiff.errors import InputError
from texdiff.models.lora_files.find import lora_file
from texdiff.models.lora_files.load import layer_names
from texdiff.models.lora_files.sgm import sgm_name
from texdiff.models.lora_files.strength import read_factors

CAN_BE_ADAPTED = (nn.Linear, nn.Conv2d)
"""Kinds of layers that PEFT puts adapters on, and a denoiser has."""
_MAGNITUDE = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


class LoraSettings(Protocol):
    """Settings of low-rank adapters; `texdiff.config.LoraConfig` says what each does."""

    @property
    def rank(self) -> int | None: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def dropout(self) -> float: ...
    @property
    def target_modules(self) -> Sequence[str] | None: ...
    @property
    def use_dora(self) -> bool: ...
    @property
    def init(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """That of one layer: it adds alpha / rank * up @ down to its weight."""

    down: Tensor  # [rank, in, ...]
    up: Tensor  # [out, rank, ...]
    alpha: float
    magnitude: Tensor | None  # [out], of a DoRA

    @property
    def rank(self) -> int:
        return len(self.down)


class InitialLora:
    """The adapters of a LoRA in any layout that `texdiff generate` reads, for the layers of `denoiser`, a diffusers
    model that may be on the meta device. What it has for text encoders is counted and left out.

    Raises InputError where it cannot be read, or has layers that the denoiser does not have.
    """

    def __init__(self, path: Path, denoiser: nn.Module) -> None:
        file = lora_file(path)
        layer_names(file)
        tensors, scales = read_factors(file)
        known, shapes = _names(denoiser), dict(denoiser.named_parameters())
        self.path, self.layers = path, set(known.values())
        self.adapters: dict[str, Adapter] = {}
        self.left_out = 0
        strange = []
        for (name, down, up), scale in scales.items():
            if name.startswith(("text_encoder", "lora_te")):
                self.left_out += 1
            elif name not in known:
                strange.append(name)
            else:
                factors = tensors[f"{name}{down}weight"], tensors[f"{name}{up}weight"]
                magnitude = next((tensors[name + end] for end in _MAGNITUDE if name + end in tensors), None)
                one = Adapter(down=factors[0], up=factors[1], alpha=scale * len(factors[0]), magnitude=magnitude)
                weight = shapes[f"{known[name]}.weight"]
                if (one.up.shape[0], one.down.shape[1]) != (weight.shape[0], weight.shape[1]):
                    strange.append(name)
                self.adapters[known[name]] = one
        if strange or not self.adapters:
            which = f"{strange[0]}, one of {len(strange)} layers, is not in it" if strange else "it has no layer of it"
            raise InputError(
                f"lora.init {path}: does not fit this base's U-Net ({which}); use the base that it was trained on"
            )
        if any(key.endswith(".bias") for key in tensors):
            raise InputError(f"lora.init {path}: has biases, which texdiff does not train; merge it into the base")
        dora = {adapter.magnitude is not None for adapter in self.adapters.values()}
        if len(dora) > 1:
            raise InputError(f"lora.init {path}: some of its layers are a DoRA's; merge it into the base")
        self.use_dora = dora.pop()

    def __str__(self) -> str:
        ranks = sorted({one.rank for one in self.adapters.values()})
        ends = Counter(map(end_of, self.adapters))
        text = (
            f"; what {self.path} has for {self.left_out} layers of text encoders is left out" if self.left_out else ""
        )
        rank = f"{ranks[0]} to {ranks[-1]}" if ranks[1:] else f"{ranks[0]}"
        return f"adapters of rank {rank} from {self.path} on {', '.join(f'{e} {n}' for e, n in ends.items())}{text}"

    def check(self, settings: LoraSettings) -> None:
        """Raise InputError where settings that are given ask for other adapters than these."""
        ranks, alphas = ({getattr(one, name) for one in self.adapters.values()} for name in ("rank", "alpha"))
        for name, given, found in (("rank", settings.rank, ranks), ("alpha", settings.alpha, alphas)):
            if given is not None and any(abs(one - given) > 1e-6 * given for one in found):
                has = ", ".join(f"{one:g}" for one in sorted(found))
                raise InputError(f"lora.{name}: {given:g}, but lora.init {self.path} has {has}; leave lora.{name} out")
        if settings.use_dora != self.use_dora:
            right = str(self.use_dora).lower()
            raise InputError(f"lora.use_dora must be {right} with lora.init {self.path}, as it was trained")
        ends = settings.target_modules
        wanted = {name for name in self.layers if ends and f".{name}".endswith(tuple(f".{end}" for end in ends))}
        if ends is not None and (odd := wanted ^ self.adapters.keys()):
            differ = f"{min(odd)} is in one of them alone"
            raise InputError(
                f"lora.target_modules: other layers than those of lora.init {self.path} ({differ}); leave it out"
            )

    def settings(self, dropout: float) -> peft.LoraConfig:
        """PEFT's, with the most frequent rank and strength for all and patterns for what differs from them."""
        rank = Counter(one.rank for one in self.adapters.values()).most_common(1)[0][0]
        alpha = Counter(one.alpha for one in self.adapters.values() if one.rank == rank).most_common(1)[0][0]
        return peft.LoraConfig(
            r=rank,
            lora_alpha=_whole(alpha),
            rank_pattern={name: one.rank for name, one in self.adapters.items() if one.rank != rank},
            alpha_pattern={name: _whole(one.alpha) for name, one in self.adapters.items() if one.alpha != alpha},
            lora_dropout=dropout,
            target_modules=sorted(self.adapters),
            use_dora=self.use_dora,
        )

    @torch.no_grad()
    def copy_into(self, denoiser: nn.Module) -> None:
        """Give the denoiser's adapters, which `settings` made, their values."""
        for name, one in self.adapters.items():
            layer: Any = denoiser.get_submodule(name)
            assert isinstance(layer, LoraLayer)
            for factors, value in ((layer.lora_A, one.down), (layer.lora_B, one.up)):
                weight: Any = factors["default"].weight  # a matrix, or of a convolution
                weight.copy_(value.reshape(weight.shape))
            if one.magnitude is not None:
                vector: Any = layer.lora_magnitude_vector["default"].weight
                vector.copy_(one.magnitude.reshape(vector.shape))


def end_of(layer: str) -> str:
    """The last part of a layer's name, with the one before where that is a number: to_q, to_out.0."""
    parts = layer.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def _names(denoiser: nn.Module) -> dict[str, str]:
    """The denoiser's layer that a name in a file means: diffusers', its older ones, kohya's."""
    layers = [name for name, module in denoiser.named_modules() if isinstance(module, CAN_BE_ADAPTED)]
    names = {f"unet.{layer}": layer for layer in layers}
    for layer in layers:
        before, _, projection = layer.rpartition(".to_")
        if before:
            names[f"unet.{before}.processor.to_{projection.removesuffix('.0')}"] = layer
        names[f"lora_unet_{layer.replace('.', '_')}"] = layer
    if getattr(denoiser, "add_embedding", None) is not None:  # Stable Diffusion XL
        names |= {f"lora_unet_{sgm_name(layer).replace('.', '_')}": layer for layer in layers}
    return names


def _whole(alpha: float) -> int | float:
    """As an integer where it is one: other programs expect it as diffusers writes it."""
    near = round(alpha)
    return near if abs(alpha - near) < 1e-6 * max(1, near) else alpha
