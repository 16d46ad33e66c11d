"""Everything a training run can be told. `--help` shows these docstrings; texdiff/cli/train_arguments.py reads them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from texdiff.bounds import (
    Count,
    CountOrNone,
    Grey,
    Names,
    NonNegative,
    Positive,
    Resolution,
    Share,
    Weight,
    check_bounds,
)
from texdiff.errors import InputError

RENAMED = {"optim.in_backward": "optim.fused_backward_pass"}
"""Keys that had another name once: an old checkpoint is read with the new one, and a user who gives the old is told."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The base model."""

    pretrained_model_name_or_path: str = "nano"
    """Stable Diffusion pipeline to start from: a folder, a hub id, or `nano`, the small one that is included."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    variant: str | None = None
    """Weight files' variant, such as `fp16`."""
    train: Literal["lora", "full"] = "lora"
    """Train low-rank adapters, or every weight of the denoiser."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters; used where model.train is `lora`."""

    rank: Count = 8
    """Rank of each adapter."""
    alpha: Positive | None = None
    """Strength: the adapter's output is scaled by alpha / rank. Default: rank, a strength of 1."""
    dropout: Share = 0.0
    """Share of an adapter's inputs set to 0 while training."""
    target_modules: Names = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the layers that get an adapter."""
    use_dora: bool = False
    """Train direction and magnitude apart (DoRA)."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The dataset, and what of it the model sees."""

    dataset: str
    """Folder written by `texdiff prepare`, or any dataset that `texdiff check` accepts: images with masks in other
    trainers' layouts, kohya's .toml, a hub id with the three columns below."""
    image_column: str = "image"
    """Column that holds the texture."""
    mask_column: str = "mask"
    """Column that holds the UV mask: white where the UV map uses the texture."""
    caption_column: str = "text"
    """Column that holds the caption, or a list of captions of which each visit draws one. Where there is no `text`,
    caption, prompt or captions is taken."""
    resolution: Resolution = 512
    """Side in pixels of the square that every texture is brought to; a multiple of 8."""
    background: Literal["fill", "keep"] | Grey = "fill"
    """The void between islands: `fill` from the islands, `keep` what is there, or a grey of 0-255."""
    posterior: Literal["sample", "mean"] = "sample"
    """Latents: drawn anew from the encoder's distribution at each visit, or its mean."""
    caption_dropout: Share = 0.1
    """Share of visits with an empty caption, which enables classifier-free guidance."""
    unreadable: Literal["stop", "skip"] = "stop"
    """A texture or mask that cannot be read: the run stops, or continues without it. It is named, and with `skip`
    counted and searched for at the start, which reads every image once."""
    cache: Literal["disk", "memory", "off"] = "disk"
    """Encoded textures and captions: kept on disk for every later run, kept in memory by each process, or encoded anew
    at every visit, with VAE and text encoder staying loaded. The numbers are the same, on a GPU with `off` up to
    rounding."""
    cache_dir: str | None = None
    """Folder for encoded textures and captions. Default: texdiff/ in the user's cache folder."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """The UV mask in the loss."""

    downsample: Literal["nearest", "nearest-exact", "area", "any", "all"] = "nearest"
    """How the mask is brought to latent size, one cell for 8x8 pixels."""
    reduction: Literal["texel", "sample"] = "texel"
    """Mean over the effective batch: every covered latent texel counts alike, or every texture does."""
    weight: Literal["texel", "surface"] = "texel"
    """Within a texture every covered texel counts alike, or by how much of the mesh's surface it lands on, so that a
    big wall in a small island is not neglected, but up to 16 times the texture's median. What textures weigh beside
    each other stays. `surface` needs a dataset that `texdiff prepare` made from meshes."""
    dilation: int = 0
    """Latent cells by which the mask at latent size grows in each direction; a negative number shrinks it."""
    outside: Literal["nothing", "base_model"] = "nothing"
    """Outside the mask nothing is asked for, or the base model's own prediction, so that the void is neither learnt
    nor forgotten: `base_model` costs a second forward pass (0.4 of a step on a CPU), and needs model.train lora."""
    unmasked_weight: Weight | None = None
    """Weight of latent cells outside the mask. Default: 0, or 1 where mask.outside is `base_model`. With `nothing`
    there, it weighs the training target: 1 trains without masks."""
    pixel_weight: NonNegative = 0.0
    """Weight of the masked squared error in pixels of [-1, 1], decoded, beside that of latents. The VAE
    stays in memory, and its decoder runs twice and backwards in every pass: with Stable Diffusion 1.5 at 512 px, on a
    CPU, a pass then takes four times as long and 6 GiB more for each texture."""

    @property
    def outside_weight(self) -> float:
        """What a latent cell outside the mask weighs."""
        if self.unmasked_weight is None:
            return 1.0 if self.outside == "base_model" else 0.0
        return self.unmasked_weight


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise that is added, and its weight in the loss."""

    offset: NonNegative = 0.0
    """Standard deviation of noise that is common to a whole channel."""
    input_perturbation: NonNegative = 0.0
    """Standard deviation of further noise that the U-Net sees and is not asked to predict; 0.1 in its paper."""
    rescale_betas_zero_snr: bool = False
    """Stretch the schedule until its last step is noise alone, in training, samples and export. Not for a base that
    predicts epsilon."""
    timestep_sampling: Literal["uniform", "stratified"] = "uniform"
    """Timesteps: each sample's own, or one from each of as many equal parts of the range as the effective batch has
    samples, which costs nothing: in batches of 8 the loss varies 0.3 times as much, its gradient 0.9 times."""
    snr_gamma: Positive | None = None
    """Min-SNR weighting's gamma, 5 in its paper. Default: no weighting."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer."""

    name: Literal["adamw", "adafactor", "adamw8bit"] = "adamw"
    """AdamW; Adafactor, whose state is next to nothing, but which waits for a GPU at every weight; or AdamW with
    a state of 8 bits, for which bitsandbytes must be installed."""
    learning_rate: Positive = 1e-4
    """Learning rate at its highest."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Course of the learning rate over the run."""
    lr_warmup_steps: CountOrNone = 0
    """Optimizer steps over which the learning rate rises from 0; not for `constant`."""
    weight_decay: NonNegative = 1e-2
    """Decay of the weights, decoupled from the gradient."""
    max_grad_norm: Positive | None = 1.0
    """Gradients are scaled down to this norm where theirs is larger; `null` leaves them."""
    fused_backward_pass: bool = False
    """Apply the optimizer step per parameter during backward, so that only one gradient is in memory at a time: for
    model.train `full` with one process, one micro-batch a step and max_grad_norm `null`. The numbers are the same."""
    use_ema: bool = False
    """Keep an exponential moving average of the trained weights, and validate, draw samples and export with it."""
    ema_decay: Share = 0.9999
    """Share of the average that stays at each step; it starts smaller, (1 + n) / (10 + n) after n steps."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, size and place of the run."""

    output_dir: str = "outputs/run"
    """Folder for weights, checkpoints, samples and figures."""
    seed: int = 0
    """Seed of every random draw."""
    max_train_steps: Count = 1000
    """Optimizer steps."""
    train_batch_size: Count = 4
    """Textures per process and forward pass."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimizer step."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: slower, less memory."""
    compile: bool = False
    """Compile the U-Net's transformer blocks before the first step: it takes a while, which long runs on a GPU win
    back."""
    cuda_graphs: bool | None = None
    """Record the U-Net's kernels once and replay them, on a GPU: small batches no longer wait for Python. null: where
    that can be, which is on one GPU, not with compile, gradient checkpointing or accumulation, dropout in adapters,
    mask.outside `base_model` or steps in the backward pass."""
    low_precision_norms: bool = False
    """With bf16 or fp16, on a GPU: normalisation layers keep their input's precision, with statistics in float32, where
    autocast would widen them and keep float32 activations."""
    low_precision_adapters: bool = False
    """With bf16 or fp16, on a GPU: adapters take their input as it is, where PEFT would widen it to float32 and keep
    that. Not with DoRA."""
    channels_last: bool = False
    """On a GPU: keep the U-Net's activations with their channels innermost, as its convolutions have them. Faster with
    one texture a pass, slower with many."""
    checkpointing_steps: Count = 500
    """Optimizer steps from one checkpoint to the next."""
    checkpoints_total_limit: Count = 2
    """Checkpoints to keep; older ones go."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` continues from the newest checkpoint in output_dir; `never` starts over in a new folder beside it."""
    report_to: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Tracker that gets the figures, beside metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Held-out loss and sample images while training."""

    every: CountOrNone = 500
    """Optimizer steps from one validation to the next; 0 validates at the end only."""
    prompts: tuple[str, ...] = ()
    """Prompts of the sample images. Default: captions of the validation split, or of the training split."""
    num_images: CountOrNone = 4
    """Sample images at each validation; 0 makes none."""
    num_inference_steps: Count = 25
    """Denoising steps of each sample image."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run. Raises InputError for values that cannot be, alone or together."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        for section in fields(self):
            check_bounds(section.name, getattr(self, section.name))
        for impossible, message in self._combinations():
            if impossible:
                raise InputError(message)

    def _combinations(self) -> Iterator[tuple[bool, str]]:
        """What is not possible together, and what to say of it."""
        model, mask, optim, run = self.model, self.mask, self.optim, self.run
        yield (
            mask.outside == "base_model" and model.train != "lora",
            "mask.outside base_model needs model.train lora: without adapters to switch off there is no base model "
            "beside the trained one",
        )
        for key in self.against_cuda_graphs():
            yield (
                bool(run.cuda_graphs),
                f"run.cuda_graphs must not be true with this {key}: what is recorded is the same pass every time; set "
                "one of them to its default",
            )
        yield (
            run.low_precision_adapters and self.lora.use_dora,
            "run.low_precision_adapters must be false with lora.use_dora: DoRA computes with its weights in float32",
        )
        yield (
            optim.fused_backward_pass and (model.train != "full" or run.gradient_accumulation_steps > 1),
            "optim.fused_backward_pass needs model.train full and run.gradient_accumulation_steps 1",
        )
        yield (
            optim.fused_backward_pass and optim.max_grad_norm is not None,
            "optim.max_grad_norm must be null with optim.fused_backward_pass, where a gradient has gone before the "
            f"norm of all is known (got {optim.max_grad_norm})",
        )
        yield (
            optim.lr_scheduler == "constant" and optim.lr_warmup_steps > 0,
            f"optim.lr_warmup_steps must be 0 with optim.lr_scheduler constant (got {optim.lr_warmup_steps}); "
            "constant_with_warmup has a warm-up",
        )

    def against_cuda_graphs(self) -> list[str]:
        """Keys whose values keep the U-Net's passes from being recorded."""
        keys = {
            "run.gradient_checkpointing": self.run.gradient_checkpointing,
            # A replay writes its gradients where the one before it did, so that they would not add up.
            "run.gradient_accumulation_steps": self.run.gradient_accumulation_steps > 1,
            "lora.dropout": self.lora.dropout > 0,
            "mask.outside": self.mask.outside == "base_model",
            # All gradients are there at once then, where the point is that they never are.
            "optim.fused_backward_pass": self.optim.fused_backward_pass,
        }
        return [key for key, in_the_way in keys.items() if in_the_way]

    def due(self, step: int, every: int) -> bool:
        """Whether what happens every so many steps is due after `step`; always before the first and after the last."""
        return step in (0, self.run.max_train_steps) or (every > 0 and step % every == 0)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, as config.yaml holds them."""
        return asdict(self, dict_factory=lambda pairs: {k: list(v) if isinstance(v, tuple) else v for k, v in pairs})

    def to_yaml(self) -> str:
        """The same as text; a file of it can be given to `--config` again."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
