"""A base pipeline: found on disk or on the hub, its parts loaded when they are needed."""

import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from huggingface_hub import hf_hub_download
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from texdiff.errors import InputError, one_line
from texdiff.models.exports import newest_export
from texdiff.models.nano import nano_folder

# Bars for files that load in a second hide those of the long work; what is wrong with files is said here, in one line.
for library in (diffusers, transformers):
    library.logging.disable_progress_bar()
    library.logging.set_verbosity_error()

PIPELINES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
    "StableDiffusionInpaintPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLInpaintPipeline": {"add_watermarker": False},
}
"""Of the families that are supported, as `model_index.json` names them; and how each is loaded without what judges or
changes its pictures: textures are no photographs, the checker costs a gigabyte and blackens images by mistake."""

_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
# diffusion_pytorch_model.fp16.safetensors, model-00001-of-00002.safetensors and the like.
_WEIGHT_FILE = re.compile(r"\w*model(?:\.([^.-]+))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)")


def load_whole(kind: Any, source: str | Path, **options: Any) -> Any:
    """A model of `kind` as its from_pretrained loads it. Raises ValueError where weights are missing: of a text encoder
    transformers would draw these at random, with a warning."""
    model, found = kind.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{missing[0]}, one of {len(missing)} weights, is missing")
    return model


def resolve_base(name: str, revision: str | None = None) -> str:
    """The folder or hub id that `name` stands for: `nano` is the small bundled pipeline.

    Raises InputError where there is none, where the hub cannot be reached, and for another kind of pipeline.
    """
    if name == "nano":
        return str(nano_folder())
    folder = Path(name).expanduser()
    if folder.exists():
        if not (folder / "model_index.json").is_file() and (newest := newest_export(folder, "model_index.json")):
            folder = newest.parent  # of a full fine-tuning that is not finished
        if not (folder / "model_index.json").is_file():
            raise InputError(f"{folder}: has no model_index.json, so it is not a diffusers pipeline; name its folder")
        name = str(folder)
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(f"{name}: no such folder or file, and not a hub id (owner/name); check the path")
    try:
        index = (
            folder / "model_index.json"
            if folder.exists()
            else hf_hub_download(name, "model_index.json", revision=revision)
        )
        parts = json.loads(Path(index).read_text("utf-8"))
        family = parts["_class_name"]
    except Exception as error:  # not there, not allowed, no network, no JSON, no pipeline's JSON
        raise InputError(f"{name}: cannot be loaded, from disk or from the hub ({one_line(error)[:200]})") from None
    if "XL" in family and parts.get("text_encoder") in (None, [None, None]):
        raise InputError(f"{name}: is SDXL's refiner, which only finishes what the base has begun; name the base")
    if family not in PIPELINES:
        raise InputError(
            f"{name}: is a {family}; only Stable Diffusion 1, 2 and XL ({', '.join(PIPELINES)}) can be used"
        )
    return name


class Base:
    """A Stable Diffusion pipeline whose parts are loaded when first asked for, in float32, on the CPU."""

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        variant: str | None = None,
        prediction_type: str | None = None,
        vae: str | None = None,
    ) -> None:
        self.source, self.revision, self.variant = source, revision, variant
        self.prediction_type, self.vae_source = prediction_type, vae

    @property
    def configs(self) -> str:
        """Folder or hub id with the settings of all parts."""
        return self.source

    def parts(self) -> dict[str, Any]:
        """Models and tokenizers, by name, as diffusers' pipelines take them. Loads those that are not loaded yet."""
        return {part: getattr(self, part) for part in _PARTS if part in self.index}

    def _load(self, kind: Any, part: str, dtype: torch.dtype = torch.float32) -> Any:
        try:
            if not issubclass(kind, torch.nn.Module):
                return kind.from_pretrained(self.configs, subfolder=part, revision=self.revision)
            there = self.variants(part)
            variant = self.variant if not there or self.variant in there else None  # as diffusers' pipelines have it
            options: dict[str, Any] = {"torch_dtype": dtype} | ({"variant": variant} if variant else {})
            return load_whole(kind, self.source, subfolder=part, revision=self.revision, **options).to(dtype)
        except Exception as error:  # hub, JSON, safetensors, shapes: each means that this part cannot be had
            raise self._cannot_load(part, error) from None

    def check_variant(self) -> None:
        """Raise InputError, with the variant to name, where the denoiser's weights are not there in that of this base.
        Known for a folder alone."""
        there = self.variants("unet")
        if not there or (self.variant or "") in there:
            return
        named = f"are not of the variant {self.variant}" if self.variant else "are all of a variant"
        use = " or ".join(f"--model.variant {variant}" if variant else "--model.variant null" for variant in there)
        raise InputError(f"{self.source}: the weights in unet/ {named}; use {use}")

    def variants(self, part: str) -> list[str]:
        """Those of a part's weight files in a folder, "" for files of none."""
        files = self.files(part) if Path(self.source).is_dir() else []
        return sorted({match[1] or "" for path in files if (match := _WEIGHT_FILE.fullmatch(path.name))})

    def _cannot_load(self, part: str, why: object) -> InputError:
        reason = one_line(why)[:300]
        if part == "vae" and self.vae_source is not None:
            return InputError(f"model.vae: {self.vae_source} cannot be loaded ({reason})")
        return InputError(
            f"model.pretrained_model_name_or_path: {self.source} has no {part} that can be loaded ({reason})"
        )

    @cached_property
    def unet(self) -> UNet2DConditionModel:
        return self._load(UNet2DConditionModel, "unet")

    def load_unet(self, dtype: torch.dtype) -> None:
        """Load it in another precision than float32, where it is not loaded yet: half the memory for Stable Diffusion
        XL's 10 GB."""
        if "unet" not in self.__dict__:
            self.__dict__["unet"] = self._load(UNet2DConditionModel, "unet", dtype)

    def unet_outline(self) -> UNet2DConditionModel:
        """The U-Net's layers on the meta device: names and shapes, known without its weights."""
        settings = self.unet_config
        try:
            with torch.device("meta"):
                return UNet2DConditionModel.from_config(settings)
        except Exception as error:  # settings of another model
            raise self._cannot_load("unet", error) from None

    @cached_property
    def unet_config(self) -> dict[str, Any]:
        """The U-Net's settings, which are known without its weights."""
        return self._config("unet", UNet2DConditionModel.load_config)

    def _config(self, part: str, load: Callable[..., Any]) -> dict[str, Any]:
        try:
            return dict(load(self.configs, subfolder=part, revision=self.revision))
        except Exception as error:  # hub, JSON
            raise self._cannot_load(part, error) from None

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The base's own, or the one that `vae` names."""
        if self.vae_source is None:
            return self._load(AutoencoderKL, "vae")
        try:
            if Path(self.vae_source).is_file():
                settings = {"config": self.configs, "subfolder": "vae", "local_files_only": True}
                return AutoencoderKL.from_single_file(self.vae_source, **settings).float()
            return load_whole(AutoencoderKL, self.vae_source, subfolder=self._vae_subfolder).float()
        except Exception as error:  # hub, JSON, safetensors, shapes
            raise self._cannot_load("vae", error) from None

    @property
    def _vae_subfolder(self) -> str:
        """Of what `vae` names: a pipeline's, or none."""
        return "vae" if Path(str(self.vae_source), "vae").is_dir() else ""

    @cached_property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's settings, which are known without its weights."""
        if self.vae_source is None or Path(self.vae_source).is_file():  # a file has none
            return self._config("vae", AutoencoderKL.load_config)
        try:
            return dict(AutoencoderKL.load_config(self.vae_source, subfolder=self._vae_subfolder))
        except Exception as error:  # hub, JSON
            raise self._cannot_load("vae", error) from None

    @cached_property
    def folder(self) -> Path:
        """Where the pipeline's files are: its folder, or its snapshot in the hub's cache."""
        if Path(self.source).is_dir():
            return Path(self.source)
        return Path(hf_hub_download(self.source, "model_index.json", revision=self.revision)).parent

    def files(self, part: str) -> list[Path]:
        """The files of a part."""
        folder = self.folder / part
        if part == "vae" and self.vae_source is not None:
            if Path(self.vae_source).is_file():
                return [Path(self.vae_source)]
            if not (folder := Path(self.vae_source, self._vae_subfolder)).is_dir():
                folder = Path(hf_hub_download(self.vae_source, "config.json")).parent
        return sorted(path for path in folder.rglob("*") if path.is_file())

    @cached_property
    def index(self) -> dict[str, Any]:
        """What model_index.json says: the pipeline's class, those of its parts, and its settings."""
        return json.loads((self.folder / "model_index.json").read_text("utf-8"))

    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return self._load(CLIPTextModel, "text_encoder")

    @cached_property
    def text_encoder_config(self) -> dict[str, Any]:
        """The text encoder's settings, which are known without its weights."""
        return self._config("text_encoder", lambda *of, **its: CLIPTextConfig.from_pretrained(*of, **its).to_dict())

    @cached_property
    def text_encoder_2(self) -> CLIPTextModelWithProjection:
        """Of Stable Diffusion XL."""
        return self._load(CLIPTextModelWithProjection, "text_encoder_2")

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return self._load_tokenizer("tokenizer")

    @cached_property
    def tokenizer_2(self) -> CLIPTokenizer:
        """Of Stable Diffusion XL."""
        return self._load_tokenizer("tokenizer_2")

    def _load_tokenizer(self, part: str) -> CLIPTokenizer:
        tokenizer = self._load(CLIPTokenizer, part)
        if len(tokenizer) < 256:  # transformers makes an empty one where the files are missing, without a word
            raise self._cannot_load(part, "its files are missing")
        return tokenizer

    @cached_property
    def scheduler(self) -> DDPMScheduler:
        """The training schedule, whichever sampler the pipeline itself names."""
        self.check_scheduler()
        scheduler = self._load(DDPMScheduler, "scheduler")
        self.correct(scheduler)
        return scheduler

    def check_scheduler(self) -> None:
        """Raise InputError where the pipeline names a sampler of another noise process, such as a flow's."""
        said = self._config("scheduler", DDPMScheduler.load_config)
        kind, predicts = said.get("_class_name"), self.prediction_type or said.get("prediction_type", "epsilon")
        if "beta_start" not in said and not said.get("trained_betas"):
            raise self._cannot_load("scheduler", f"a {kind} has no betas, as Stable Diffusion has")
        if predicts not in ("epsilon", "v_prediction", "sample"):
            raise self._cannot_load("scheduler", f"prediction_type {predicts} is none of epsilon, v_prediction, sample")

    def correct(self, scheduler: SchedulerMixin) -> None:
        """Let a scheduler of this base know what the U-Net predicts, where the settings say it."""
        if self.prediction_type is not None:
            scheduler.register_to_config(prediction_type=self.prediction_type)


def load_base(
    name: str,
    revision: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    vae: str | None = None,
) -> Base:
    """The pipeline `name`: a folder, a hub id, a .safetensors file with all of its parts, or `nano`. It has .unet .vae
    .text_encoder .tokenizer .scheduler.

    `prediction_type` says what its U-Net predicts whatever its scheduler says; `vae` is another one in the place of its
    own: a folder, a hub id, a .safetensors file. Raises InputError where there is no such pipeline; a part that is
    damaged raises it when first asked for.
    """
    if vae is not None:
        vae = str(Path(vae).expanduser())
        if not Path(vae).exists() and (vae.startswith((".", "/")) or vae.count("/") != 1):
            raise InputError(f"model.vae: {vae}: no such folder or file, and not a hub id (owner/name); check the path")
    path = Path(name).expanduser()
    if path.is_file():
        from texdiff.models.single_file import PICKLES, SingleFile  # which imports this module

        if path.suffix in PICKLES:
            raise InputError(
                f"{path}: a pickle, which can run any code when it is read; name the same base as .safetensors"
            )
        return SingleFile(path, prediction_type, vae)
    return Base(resolve_base(name, revision), revision, variant, prediction_type, vae)
