"""Stable Diffusion 1 and 2: an AutoencoderKL, one CLIP text encoder, and a U-Net on DDPM."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
)
from torch import Tensor, nn

from texdiff.data.cache.encoders import Encodes
from texdiff.data.cache.keys import fingerprint
from texdiff.data.image_source import StoredFile
from texdiff.diffusion.process import DDPM, rescale_zero_terminal_snr
from texdiff.errors import InputError
from texdiff.models.base import PIPELINES, Base
from texdiff.models.family import Conditioning
from texdiff.models.inpainting import choose_hiding, with_known
from texdiff.models.layout_net import (
    SCALE,
    LayoutSettings,
    Maps,
    check_fit,
    load_layout_net,
    make_layout_net,
    maps_of,
)
from texdiff.models.prompts import PromptReading, read_prompts_as, same_length
from texdiff.uv.hiding import Hiding


class StableDiffusion:
    """As `texdiff.models.family.Family`, over a base's parts."""

    # Subfolders of the pipeline: models, and the files that these need besides.
    models: ClassVar[dict[Encodes, tuple[str, ...]]] = {"images": ("vae",), "prompts": ("text_encoder",)}
    besides: ClassVar[dict[Encodes, tuple[str, ...]]] = {"images": (), "prompts": ("tokenizer",)}

    def __init__(
        self,
        base: Base,
        rescale_betas_zero_snr: bool = False,
        reading: PromptReading | None = None,
        hiding: Hiding | None = None,
    ) -> None:
        self.base, self.source = base, base.source
        self.hiding = choose_hiding(base, hiding)
        self.reading = reading or PromptReading()
        if self.reading.clip_skip is not None:
            self.reading.check(base.text_encoder_config["num_hidden_layers"])
        self.zero_snr = rescale_betas_zero_snr
        alphas_cumprod: Tensor = base.scheduler.alphas_cumprod
        prediction_type: str = base.scheduler.config.prediction_type
        if rescale_betas_zero_snr:
            if prediction_type == "epsilon":
                raise InputError(
                    f"noise.rescale_betas_zero_snr: {base.source} predicts epsilon, which says nothing where there is "
                    "noise alone; use a base that predicts v, or set it to false"
                )
            alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
        self.process = DDPM(alphas_cumprod, prediction_type)
        self._checked: tuple[LayoutSettings, ControlNetModel] | None = None

    @property
    def latent_factor(self) -> int:
        return 2 ** (len(self.base.vae_config["block_out_channels"]) - 1)

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.base.unet

    def load_denoiser(self, dtype: torch.dtype) -> None:
        self.base.load_unet(dtype)

    def denoiser_outline(self) -> UNet2DConditionModel:
        return self.base.unet_outline()

    @cached_property
    def scaling_factor(self) -> float:
        """s of z = s · (μ + σ ε₀), which gives the latents a variance near 1."""
        return float(self.base.vae_config.get("scaling_factor", 0.18215))

    def encoder_state(self, encodes: Encodes) -> tuple[object, ...]:
        parts = (*self.models[encodes], *self.besides[encodes])
        files = [StoredFile(str(path)).signature() for part in parts for path in self.base.files(part)]
        return self.base.variant, self.base.revision, *parts, *files, *self._reads(encodes)

    def encoder_content(self, encodes: Encodes) -> tuple[object, ...]:
        weights = [fingerprint(getattr(self.base, part)) for part in self.models[encodes]]
        files = [path.read_bytes() for part in self.besides[encodes] for path in self.base.files(part)]
        return *weights, *files, *self._reads(encodes)

    def _reads(self, encodes: Encodes) -> tuple[object, ...]:
        """What else the encoder's answers depend on; the usual way of reading has always gone without saying."""
        usual = encodes != "prompts" or self.reading == PromptReading()
        return () if usual else (self.reading.chunks, self.reading.clip_skip)

    def move_encoders(self, device: torch.device | str, *encodes: Encodes) -> None:
        for kind, parts in self.models.items():
            for part in parts:
                if kind in encodes if encodes else part in self.base.__dict__:
                    getattr(self.base, part).requires_grad_(False).to(device)

    @contextmanager
    def encoders_on(self, device: torch.device) -> Iterator[None]:
        models = [getattr(self.base, part) for parts in self.models.values() for part in parts]
        before = [model.device for model in models]
        self.move_encoders(device, *self.models)
        try:
            yield
        finally:
            for model, place in zip(models, before, strict=True):
                model.to(place)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self.base.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`text` float32 [B, L, D], as texdiff.models.prompts reads them; longer prompts are cut."""
        parts = self.reading.encode(self.base.tokenizer, self.base.text_encoder, prompts)
        return {"text": torch.stack(same_length(parts)).float()}

    @property
    def max_tokens(self) -> int:
        return self.reading.tokens_of(self.base.tokenizer)

    def left_out(self, prompts: Sequence[str]) -> list[str]:
        return self.reading.left_out(self.base.tokenizer, prompts)

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        tokens = self.base.tokenizer(list(prompts), add_special_tokens=False, verbose=False)
        return [len(ids) for ids in tokens.input_ids]

    def latents(self, mean: Tensor, std: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        return self.scaling_factor * (mean if std is None or noise is None else mean + std * noise)

    def load_decoder(self, device: torch.device, gradient_checkpointing: bool) -> None:
        self.move_encoders(device, "images")  # one model with the encoder
        if gradient_checkpointing:
            self.base.vae.enable_gradient_checkpointing()

    def decode(self, latents: Tensor) -> Tensor:
        return self.base.vae.decode(latents / self.scaling_factor).sample

    def denoiser_inputs(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        sample = noisy if self.hiding is None else with_known(noisy, conditioning.known, self.scaling_factor)
        return {"sample": sample, "timestep": t, "encoder_hidden_states": conditioning.prompt["text"]}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        layout_net: nn.Module | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        inputs = self.denoiser_inputs(noisy, t, conditioning)
        if layout_net is None:
            return denoiser(**inputs).sample
        maps = conditioning.layout
        if maps is None:
            maps = noisy.new_zeros(len(noisy), 3, *(side * self.latent_factor for side in noisy.shape[2:]))
        hint = maps_of(layout_net).of(maps).to(noisy.dtype)
        down, middle = layout_net(**inputs, controlnet_cond=hint, conditioning_scale=scale, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return denoiser(**inputs, **residuals).sample

    def layout_net(self, settings: LayoutSettings, seed: int = 0) -> ControlNetModel:
        self._check_layout()
        if settings.init is None:
            maps = Maps(kind=settings.maps, scale=settings.scale or SCALE)
            return make_layout_net(self.denoiser, self.latent_factor, maps, seed)
        checked, self._checked = self._checked, None
        if checked is not None and checked[0] == settings:
            return checked[1]
        net = load_layout_net(settings)
        check_fit(net, self.denoiser_outline(), self.latent_factor, f"layout.init {settings.init}")
        return net

    def check_layout_net(self, settings: LayoutSettings) -> None:
        self._checked = settings, self.layout_net(settings)

    def layout_net_outline(self) -> ControlNetModel:
        self._check_layout()
        return make_layout_net(self.denoiser_outline(), self.latent_factor, Maps(), seed=None)

    def _check_layout(self) -> None:
        if self.hiding is not None:
            raise InputError(
                f"layout.maps must be none with the inpainting base {self.source}, whose denoiser takes other inputs "
                "than a layout net; inpaint.mode layout tells it the UV mask"
            )

    def pipeline(self, denoiser: nn.Module, layout_net: nn.Module | None = None) -> DiffusionPipeline:
        """With a rescaled process its sampler's schedule ends in noise alone too."""
        kind = self.base.index["_class_name"]
        parts = [part for group in (self.models, self.besides) for kinds in group.values() for part in kinds]
        with_net = {} if layout_net is None else {"controlnet": layout_net}
        made = getattr(diffusers, under_layout(kind) if with_net else kind)
        pipeline = made.from_pretrained(
            self.base.configs,
            revision=self.base.revision,
            variant=self.base.variant,
            unet=denoiser,
            **{part: getattr(self.base, part) for part in parts},
            **PIPELINES[kind],
            **with_net,
        )
        self.base.correct(pipeline.scheduler)
        if self.zero_snr:
            pipeline.scheduler = zero_snr_sampler(pipeline.scheduler)
        read_prompts_as(pipeline, self.reading)
        return pipeline


@torch.no_grad()
def mean_latents(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """The latents [B, 4, h, w] that a pipeline's U-Net sees of pixels [B, 3, H, W] in [-1, 1]: the posterior's mean.

    Never computed in float16, in which Stable Diffusion XL's encoder gives NaN.
    """
    dtype = vae.dtype
    if dtype == torch.float16:
        vae.to(torch.float32)
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean * vae.config.scaling_factor
    vae.to(dtype)
    return latents.to(dtype)


def quick_sampler(sampler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """DPM-Solver++ on the same schedule: good images in 20 to 30 steps. Its last is Euler's, without which Stable
    Diffusion XL leaves artefacts below 50."""
    return DPMSolverMultistepScheduler.from_config(sampler.config, euler_at_final=True)


def zero_snr_sampler(sampler: SchedulerMixin) -> SchedulerMixin:
    """The sampler with its schedule rescaled to end in noise alone, and its steps beginning there (Lin et al. 2023);
    DDIM in the place of one that does not know how."""
    known = "rescale_betas_zero_snr" in inspect.signature(type(sampler)).parameters
    kind = type(sampler) if known else DDIMScheduler
    return kind.from_config(sampler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")


def as_img2img(pipeline: DiffusionPipeline) -> tuple[Any, dict[str, Any]]:
    """The class of pipeline that starts from an image, and what one is made of that shares this one's parts."""
    kind = type(pipeline).__name__
    parts = pipeline.components | PIPELINES[kind.replace("ControlNet", "")]
    return getattr(diffusers, kind.replace("Pipeline", "Img2ImgPipeline")), parts


def in_the_manner_of(pipeline: DiffusionPipeline, made: Any) -> Any:
    """`made`, of another class and of the same parts, reading prompts and showing progress as `pipeline` does."""
    made.encode_prompt = pipeline.encode_prompt  # which may read prompts as a run did
    made.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
    return made


def under_layout(kind: str) -> str:
    """The class of pipeline that has a layout net beside what this one has, by name."""
    return kind.replace("Pipeline", "ControlNetPipeline")
