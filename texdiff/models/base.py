"""The base pipeline's parts, and the low-rank adapters put into its U-Net."""

import inspect
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from transformers import CLIPTextModel, CLIPTokenizer

from texdiff.config import LoraConfig
from texdiff.errors import InputError
from texdiff.models.nano import nano_folder

# Bars for files that load in a second hide those of the long work.
diffusers.logging.disable_progress_bar()
transformers.logging.disable_progress_bar()

FAMILY = "StableDiffusionPipeline"


def resolve_base(name: str, revision: str | None = None) -> str:
    """The folder or hub id that `name` stands for: `nano` is the small pipeline that comes along.

    Raises InputError where there is none, where the hub cannot be reached, and for another kind of pipeline.
    """
    if name == "nano":
        return str(nano_folder())
    folder = Path(name).expanduser()
    if folder.exists():
        if not (folder / "model_index.json").is_file():
            raise InputError(f"{folder}: has no model_index.json, so it is no diffusers pipeline; name its folder")
        name = str(folder)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"{name}: no such folder, and no hub id (owner/name) either; check the path")
    try:
        index = (
            folder / "model_index.json"
            if folder.exists()
            else hf_hub_download(name, "model_index.json", revision=revision)
        )
        family = json.loads(Path(index).read_text("utf-8"))["_class_name"]
    except Exception as error:  # not there, not allowed, no network, no JSON, no pipeline's JSON
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: cannot be loaded, from disk or from the hub ({reason})") from None
    if family != FAMILY:
        raise InputError(f"{name}: is a {family}; only a {FAMILY} (Stable Diffusion 1 and 2) is supported")
    return name


class Base:
    """A Stable Diffusion pipeline whose parts are loaded when first asked for, in float32, on the CPU."""

    def __init__(self, source: str, revision: str | None = None, variant: str | None = None) -> None:
        self.source, self.revision, self.variant = source, revision, variant

    def _load(self, kind: Any, part: str) -> Any:
        try:
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(self.source, subfolder=part, revision=self.revision)
            options = {"variant": self.variant} if self.variant else {}
            return kind.from_pretrained(self.source, subfolder=part, revision=self.revision, **options).float()
        except Exception as error:  # hub, JSON, safetensors, shapes: each means that this part cannot be had
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"model.pretrained_model_name_or_path: {self.source} has no {part} that can be loaded ({reason})"
            ) from None

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return self._load(UNet2DConditionModel, "unet")

    @cached_property
    def vae(self) -> AutoencoderKL:
        return self._load(AutoencoderKL, "vae")

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's settings, which are known without its weights."""
        try:
            return dict(AutoencoderKL.load_config(self.source, subfolder="vae", revision=self.revision))
        except Exception as error:  # hub, JSON
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"model.pretrained_model_name_or_path: {self.source} has no vae that can be loaded ({reason})"
            ) from None

    @property
    def scaling_factor(self) -> float:
        """s of z = s · (μ + σ ε₀), which gives the latents a variance near 1."""
        return float(self.vae_config.get("scaling_factor", 0.18215))

    @property
    def latent_factor(self) -> int:
        """Pixels along a side of a latent texel."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @cached_property
    def folder(self) -> Path:
        """Where the pipeline's files are: its folder, or its snapshot in the hub's cache."""
        if Path(self.source).is_dir():
            return Path(self.source)
        return Path(hf_hub_download(self.source, "model_index.json", revision=self.revision)).parent

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return self._load(CLIPTextModel, "text_encoder")

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        tokenizer = self._load(CLIPTokenizer, "tokenizer")
        if len(tokenizer) < 256:  # transformers makes an empty one where the files are missing, without a word
            raise InputError(f"model.pretrained_model_name_or_path: {self.source} has no tokenizer that can be loaded")
        return tokenizer

    @cached_property
    def scheduler(self) -> DDPMScheduler:
        """The training schedule, whichever sampler the pipeline itself names."""
        return self._load(DDPMScheduler, "scheduler")

    def release(self, *parts: str) -> None:
        """Forget loaded parts, so that their memory is free; asked for again, they are loaded again."""
        for part in parts:
            self.__dict__.pop(part, None)


def load_base(name: str, revision: str | None = None, variant: str | None = None) -> Base:
    """The pipeline `name`: a folder, a hub id, or `nano`. It has .unet .vae .text_encoder .tokenizer .scheduler.

    Raises InputError where there is no such pipeline; a part that is damaged raises it when first asked for.
    """
    return Base(resolve_base(name, revision), revision, variant)


def add_lora(unet: UNet2DConditionModel, config: LoraConfig, seed: int) -> None:
    """Put adapters into `unet`; they alone can be trained then, in float32.

    A starts normal, from `seed`, and B at 0, so that nothing changes before the first step. Raises InputError where
    no layer has one of the names in `config.target_modules`.
    """
    import peft

    unet.requires_grad_(False)
    # A whole number stays one: other programs read alpha from the file, and expect it as diffusers writes it.
    alpha: Any = config.rank if config.alpha is None else config.alpha
    adapter = peft.LoraConfig(
        r=config.rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        use_dora=config.use_dora,
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            unet.add_adapter(adapter)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"lora.target_modules: {', '.join(config.target_modules)} does not fit ({reason})"
            ) from None
    for parameter in trainable_parameters(unet).values():
        parameter.data = parameter.data.float()  # steps of 1e-4 vanish in half precision


def trainable_parameters(unet: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name and parameter of everything that has a gradient."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def zero_snr_sampler(sampler: Any) -> Any:
    """The sampler with its schedule rescaled to end in noise alone, and its steps beginning there (Lin et al. 2023);
    DDIM in the place of one that does not know how."""
    known = "rescale_betas_zero_snr" in inspect.signature(type(sampler)).parameters
    kind = type(sampler) if known else DDIMScheduler
    return kind.from_config(sampler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
