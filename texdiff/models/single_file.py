"""A base that is one .safetensors file, in the layout of its original code: how most bases are passed around.

Its settings are not in it: assets/single_file has them for each kind, and diffusers' converters rename the weights.
"""

import tempfile
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError, safe_open
from transformers import CLIPTokenizer

from texdiff.errors import InputError, one_line
from texdiff.models.base import Base
from texdiff.models.nano import MERGES, clip_tokenizer

CONFIGS = Path(str(files("texdiff").joinpath("assets/single_file")))
PICKLES = {".ckpt", ".pt", ".pth", ".bin"}
_PLAIN, _INPAINTING = 4, 9  # channels of the U-Net
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
# Of each kind a key's beginning that tells it from those below, and the beginnings of its text encoders' keys.
_KINDS = {
    "sdxl": ("conditioner.embedders.1.", ("conditioner.embedders.0.", "conditioner.embedders.1.")),
    "refiner": ("conditioner.embedders.0.model.", ()),
    "sd2": ("cond_stage_model.model.", ("cond_stage_model.",)),
    "sd1": ("cond_stage_model.transformer.", ("cond_stage_model.",)),
}
_OPEN_CLIP = {("sd2", "tokenizer"), ("sdxl", "tokenizer_2")}  # which fill up with !


class SingleFile(Base):
    """As `Base`. Raises InputError for a file that is no base of a supported kind, and where neither it nor
    `prediction_type` says what its U-Net predicts."""

    def __init__(self, path: Path, prediction_type: str | None = None, vae: str | None = None) -> None:
        keys, self.channels, metadata = _read_header(path)
        self.kind = _kind_of(path, keys, self.channels, vae)
        said = {"epsilon": "epsilon", "v": "v_prediction"}.get(metadata.get("modelspec.prediction_type", ""))
        if "v_pred" in keys or "768-v" in metadata.get("modelspec.architecture", ""):
            said = "v_prediction"
        unknown = self.kind == "sd2" and self.channels == _PLAIN  # of those for inpainting there is one kind
        predicts = prediction_type or said or (None if unknown else "epsilon")
        if predicts is None:
            raise InputError(
                f"{path}: does not say what its U-Net predicts; set model.prediction_type to v_prediction (bases of "
                "768 px) or epsilon (512 px)"
            )
        super().__init__(str(path), prediction_type=predicts, vae=vae)
        prefixes = _KINDS[self.kind][1]
        self.prefixes = {"unet": _UNET, "vae": _VAE} | dict(
            zip(("text_encoder", "text_encoder_2"), prefixes, strict=False)
        )

    @cached_property
    def folder(self) -> Path:
        return CONFIGS / self.kind

    @property
    def configs(self) -> str:
        return str(self.folder)

    @cached_property
    def index(self) -> dict[str, Any]:
        found = super().index
        inpainting = found["_class_name"].replace("Pipeline", "InpaintPipeline")
        return found if self.channels == _PLAIN else {**found, "_class_name": inpainting}

    @cached_property
    def unet_config(self) -> dict[str, Any]:
        return {**super().unet_config, "in_channels": self.channels}

    def files(self, part: str) -> list[Path]:
        if part == "vae" and self.vae_source:
            return super().files(part)
        return [MERGES if part.startswith("tokenizer") else Path(self.source)]

    def _load(self, kind: Any, part: str, dtype: torch.dtype = torch.float32) -> Any:
        if not issubclass(kind, torch.nn.Module):
            return super()._load(kind, part)
        try:
            with safe_open(self.source, "pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys() if key.startswith(self.prefixes[part])}  # noqa: SIM118
            settings = {"config": self.configs, "subfolder": part, "torch_dtype": dtype, "local_files_only": True}
            if part == "unet":
                settings["in_channels"] = self.channels
            if part.startswith("text_encoder"):
                model = create_diffusers_clip_model_from_ldm(kind, weights, **settings)
            else:
                model = kind.from_single_file(weights, **settings)
        except Exception as error:  # keys or shapes of another model
            raise self._cannot_load(part, error) from None
        if lost := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
            raise self._cannot_load(part, f"{lost[0]}, one of {len(lost)}, is missing")
        if part == "unet" and self.kind == "sd2" and self.prediction_type == "epsilon":
            model.register_to_config(sample_size=64)
        return model.to(dtype)

    def _load_tokenizer(self, part: str) -> CLIPTokenizer:
        with tempfile.TemporaryDirectory() as folder:
            return clip_tokenizer(Path(folder), "!" if (self.kind, part) in _OPEN_CLIP else "<|endoftext|>")


def _read_header(path: Path) -> tuple[set[str], int, dict[str, str]]:
    """The keys, the channels that its U-Net takes (0 without one), and the metadata."""
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            first = f"{_UNET}input_blocks.0.0.weight"
            channels = file.get_slice(first).get_shape()[1] if first in keys else 0
            return keys, channels, file.metadata() or {}
    except (SafetensorError, OSError, IndexError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({one_line(error)[:200]})") from None


def _kind_of(path: Path, keys: set[str], channels: int, vae: str | None) -> str:
    if not channels:
        if any("lora" in key for key in keys):
            raise InputError(f"{path}: is a LoRA, not a base; give it as lora.init, or to generate as --lora")
        raise InputError(
            f"{path}: has no U-Net of Stable Diffusion 1, 2 or XL in it; name a file with all parts of one, or a "
            "diffusers folder"
        )
    kind = next((kind for kind, (mark, _) in _KINDS.items() if any(key.startswith(mark) for key in keys)), None)
    if kind == "refiner":
        raise InputError(f"{path}: is SDXL's refiner, which only finishes what the base has begun; name the base")
    if channels not in (_PLAIN, _INPAINTING):
        raise InputError(
            f"{path}: is a base whose U-Net takes {channels} channels, which cannot be used; name one for plain images "
            "or for inpainting"
        )
    if kind is None:
        raise InputError(
            f"{path}: has no text encoder of Stable Diffusion 1, 2 or XL in it; name a file with all parts"
        )
    if vae is None and not any(key.startswith(_VAE) for key in keys):
        raise InputError(f"{path}: has no VAE in it; name one as model.vae")
    return kind
