"""What is trained, and what it starts from. `--help` shows the docstrings."""

from dataclasses import dataclass
from typing import Literal

from texdiff.bounds import Count, Names, Positive, Share


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model."""

    pretrained_model_name_or_path: str = "nano"
    """Stable Diffusion 1, 2 or XL to start from: a pipeline's folder, a hub id, a .safetensors file with all of its
    parts, or `nano`, the small one that is included."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    variant: str | None = None
    """Weight files' variant, such as `fp16`."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the base predicts. Default: as its scheduler says, or the metadata of a single file."""
    vae: str | None = None
    """VAE in the place of the base's own: a folder, a hub id or a .safetensors file."""
    clip_skip: Count | None = None
    """Layers to leave out at the text encoder's end, as diffusers counts them: 1 is what kohya's scripts, the WebUI and
    ComfyUI (where it is -2) call clip skip 2. null, their clip skip 1, leaves out none."""
    train: Literal["lora", "full", "controlnet"] = "lora"
    """Train low-rank adapters, every weight of the denoiser, or a layout net beside it (a ControlNet, all of it)."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters; used where model.train is `lora`."""

    rank: Count | None = None
    """Rank of each adapter. Default: 8, or as `init` has it."""
    alpha: Positive | None = None
    """Strength: the adapter's output is scaled by alpha / rank. Default: rank, a strength of 1, or as `init` has it."""
    dropout: Share = 0.0
    """Share of an adapter's inputs set to 0 while training."""
    target_modules: Names | None = None
    """Ends of the names of the layers that get an adapter. Default: to_q, to_k, to_v and to_out.0, the projections of
    attention, or as `init` has it."""
    use_dora: bool = False
    """Train direction and magnitude apart (DoRA)."""
    init: str | None = None
    """LoRA to start from, of texdiff or another trainer: a run's folder, a .safetensors file in the layout of diffusers
    or kohya, or a PEFT adapter's folder. What it has for text encoders is left out. Default: adapters that change
    nothing before the first step."""

    def __post_init__(self) -> None:
        if self.init is None:
            defaults = {"rank": 8, "target_modules": ("to_q", "to_k", "to_v", "to_out.0")}
            for name, value in defaults.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
