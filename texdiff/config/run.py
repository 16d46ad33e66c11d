"""The optimizer, and the run itself. `--help` shows the docstrings."""

from dataclasses import dataclass
from typing import Literal

from texdiff.bounds import Count, CountOrNone, NonNegative, Positive, Share


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer."""

    name: Literal["adamw", "adafactor", "adamw8bit", "prodigy", "schedule_free_adamw"] = "adamw"
    """AdamW; Adafactor, whose state is next to nothing, but which waits for a GPU at every weight; AdamW with a state
    of 8 bits, for which bitsandbytes must be installed; Prodigy (prodigyopt), which finds the size of its steps and
    wants a learning_rate of 1, but waits for a GPU at every weight too; or AdamW without a schedule (schedulefree),
    which validates, draws samples and exports with an average of its steps."""
    learning_rate: Positive = 1e-4
    """Learning rate at its highest; for prodigy a factor of the step that it finds."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Course of the learning rate over the run."""
    lr_warmup_steps: CountOrNone = 0
    """Optimizer steps over which the learning rate rises from 0; not for `constant`, and no more than the run has."""
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
    """Folder for weights, checkpoints, samples and figures; or its address in object storage, such as s3://bucket/run,
    which is kept the same as a folder in the user's cache."""
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
    """Checkpoints to keep; of older ones only their exports stay."""
    export_checkpoints: bool | None = None
    """Have in each checkpoint what the run would export at that step. null: a LoRA, which is small; of full
    fine-tuning, gigabytes, only with `true`."""
    keep_best: bool | None = None
    """Keep the export of the lowest held-out loss in output_dir/best, beside the last one. null: as above, where
    textures are held out."""
    early_stopping_patience: Count | None = None
    """Validations in a row without a lower held-out loss after which the run ends, with its export; null goes on to
    max_train_steps."""
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
    """Sample images at each validation, or as many as there are validation.prompts where these are more; 0 makes
    none."""
    num_inference_steps: Count = 25
    """Denoising steps of each sample image."""
