"""What is trained: low-rank adapters in a denoiser, every weight of it, or a layout net beside it. One module for
accelerate to wrap."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn

from texdiff.errors import InputError, one_line
from texdiff.files import atomic_entries
from texdiff.models.exports import LAYOUT_NET
from texdiff.models.family import Conditioning, Family
from texdiff.models.layout_net import LayoutSettings, describe_maps, write_layout_net
from texdiff.models.lora_files.initial import CAN_BE_ADAPTED, InitialLora, LoraSettings, end_of
from texdiff.models.lora_files.write import write_lora


class Trainable(nn.Module):
    """A family's denoiser, with a layout net or without. Its parameters have gradients where they are trained."""

    def __init__(self, family: Family, layout_net: nn.Module | None = None) -> None:
        super().__init__()
        self.family, self.denoiser, self.layout_net = family, family.denoiser, layout_net
        self.about: dict[str, str] = {}  # what a file of it says of what it was trained under

    def forward(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction [B, C, h, w] for noisy latents [B, C, h, w] at times t [B]."""
        return self.family.predict(self.denoiser, noisy, t, conditioning, self.layout_net)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by their names in the model that they belong to. To be asked for once the
        module is wrapped: wrapping may put others in their place."""
        return trainable_parameters(self.denoiser)

    @property
    def models(self) -> list[nn.Module]:
        """What predicts together."""
        return [self.denoiser] if self.layout_net is None else [self.denoiser, self.layout_net]

    def frozen_prediction(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """As `forward`, of the base model alone and without a gradient."""
        raise NotImplementedError("every weight is trained, so there is no frozen model")

    def save(self, folder: Path, about: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> None:
        """Write what was trained into `folder`, in the form that other programs load; `about` goes into its metadata
        where the format has any. `weights` are the denoiser's, where it has but parts of them itself."""
        raise NotImplementedError


class FullDenoiser(Trainable):
    """Every weight, in float32."""

    def save(self, folder: Path, about: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> None:
        """The full pipeline, so that `DiffusionPipeline.from_pretrained(folder)` loads it."""
        denoiser = self.denoiser
        if weights is not None:
            denoiser = self.family.denoiser_outline()
            denoiser.load_state_dict(weights, assign=True)
        with atomic_entries(folder, last="model_index.json") as aside:
            self.family.pipeline(denoiser).save_pretrained(aside)


class LoraDenoiser(Trainable):
    """Float32 adapters on frozen weights of another precision, `dtype`; under a layout net, it is frozen as well."""

    def __init__(
        self,
        family: Family,
        settings: LoraSettings,
        seed: int,
        dtype: torch.dtype,
        layout_net: nn.Module | None = None,
    ) -> None:
        family.load_denoiser(dtype)
        super().__init__(family, layout_net)
        if layout_net is not None:
            self.about = {f"texdiff.layout.{key}": str(value) for key, value in describe_maps(layout_net).items()}
            layout_net.requires_grad_(False).to(dtype)
        add_lora(self.denoiser.to(dtype), settings, seed)

    @torch.no_grad()
    def frozen_prediction(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """With the adapters switched off."""
        denoiser: Any = self.denoiser
        denoiser.disable_adapters()
        try:
            return self(noisy, t, conditioning)
        finally:
            denoiser.enable_adapters()

    def save(self, folder: Path, about: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> None:
        """`folder`/pytorch_lora_weights.safetensors; its metadata says which layout net it was trained under."""
        write_lora(self.denoiser, folder, {**about, **self.about})


class ControlNetDenoiser(Trainable):
    """Every weight of a layout net, in float32, beside a frozen denoiser of another precision, `dtype`."""

    def __init__(self, family: Family, layout_net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(family, layout_net)
        self.denoiser.requires_grad_(False).to(dtype)
        layout_net.requires_grad_(True)

    def trained(self) -> dict[str, nn.Parameter]:
        return trainable_parameters(self.models[1])

    @torch.no_grad()
    def frozen_prediction(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Without the layout net."""
        return self.family.predict(self.denoiser, noisy, t, conditioning)

    def save(self, folder: Path, about: Mapping[str, str], weights: Mapping[str, Tensor] | None = None) -> None:
        """`folder`/controlnet, which `ControlNetModel.from_pretrained` loads."""
        write_layout_net(self.layout_net, folder / LAYOUT_NET)


def make_trainable(
    family: Family,
    train: str,
    lora: LoraSettings,
    seed: int,
    dtype: torch.dtype,
    layout: LayoutSettings | None = None,
) -> Trainable:
    """What the setting model.train says, in training mode: `lora`, `full` or `controlnet`. `dtype` is that of frozen
    weights; `layout` says which layout net there is, if any."""
    net = None if layout is None or layout.maps == "none" else family.layout_net(layout, seed)
    if train == "lora":
        return LoraDenoiser(family, lora, seed, dtype, net).train()
    return (FullDenoiser(family) if net is None else ControlNetDenoiser(family, net, dtype)).train()


def add_lora(denoiser: Any, settings: LoraSettings, seed: int) -> InitialLora | None:
    """Put adapters into `denoiser`, a diffusers model; they alone can be trained then, in float32.

    A starts normal, from `seed`, and B at 0, so that nothing changes before the first step; or both as `init` has them,
    which is returned then. Raises InputError for a name in `target_modules` that no layer has, and for an `init` that
    does not fit the denoiser or the other settings.
    """
    initial = None if settings.init is None else InitialLora(Path(settings.init), denoiser)
    adapter = _new_adapter(denoiser, settings) if initial is None else initial.settings(settings.dropout)
    if initial is not None:
        initial.check(settings)
    denoiser.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            denoiser.add_adapter(adapter)
        except ValueError as error:
            names = ", ".join(adapter.target_modules or ())
            raise InputError(f"lora.target_modules: {names} does not fit ({one_line(error)[:200]})") from None
    for parameter in trainable_parameters(denoiser).values():
        parameter.data = parameter.data.float()  # steps of 1e-4 vanish in half precision
    if initial is not None:
        initial.copy_into(denoiser)
    return initial


def _new_adapter(denoiser: nn.Module, settings: LoraSettings) -> peft.LoraConfig:
    assert settings.rank is not None, "only with init"
    assert settings.target_modules is not None, "only with init"
    count_targets(denoiser, settings.target_modules)
    # An integer stays one: other programs read alpha from the file, and expect it as diffusers writes it.
    alpha = settings.rank if settings.alpha is None else settings.alpha
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        use_dora=settings.use_dora,
        init_lora_weights="gaussian",
    )


def count_targets(denoiser: nn.Module, target_modules: Sequence[str]) -> dict[str, int]:
    """How many layers of a model each name stands for: those whose own names are it, or end in it after a dot.

    Raises InputError, with the nearest names that exist, for one that stands for none.
    """
    layers = [name for name, module in denoiser.named_modules() if isinstance(module, CAN_BE_ADAPTED)]
    counts = {end: sum(f".{name}".endswith(f".{end}") for name in layers) for end in target_modules}
    for end in (end for end, count in counts.items() if count == 0):
        last = {end_of(name) for name in layers}
        alike = {".".join(name.split(".")[-end.count(".") - 1 :]) for name in layers}
        near = get_close_matches(end, sorted(last | alike), n=3)
        there = f"nearest are {', '.join(near)}" if near else f"there are {', '.join(sorted(last))}"
        raise InputError(f"lora.target_modules: {end} is the name of no layer that can have an adapter; {there}")
    return counts


def describe_training(family: Family, train: str, lora: LoraSettings) -> str:
    """What will be trained, in one line, known without the weights. Raises InputError as `add_lora` does."""
    outline = family.denoiser_outline()
    if train == "controlnet":
        outline = family.layout_net_outline()
        return f"every weight of the layout net: {sum(p.numel() for p in outline.parameters()):,} parameters"
    if train != "lora":
        return f"every weight of the denoiser: {sum(p.numel() for p in outline.parameters()):,} parameters"
    counts = {} if lora.target_modules is None else count_targets(outline, lora.target_modules)
    initial = add_lora(outline, lora, seed=0)
    size = sum(parameter.numel() for parameter in trainable_parameters(outline).values())
    names = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{initial or f'adapters of rank {lora.rank} on {names}'}: {size:,} parameters"


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Name and parameter of everything that has a gradient."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
