"""Everything a training run can be told. `--help` shows these docstrings; texdiff/cli/train_arguments.py reads them."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from texdiff.bounds import check_bounds
from texdiff.config.data import DataConfig, SourceConfig
from texdiff.config.layout import InpaintConfig, LayoutConfig
from texdiff.config.model import LoraConfig, ModelConfig
from texdiff.config.objective import MaskConfig, NoiseConfig
from texdiff.config.run import OptimConfig, RunConfig, ValidationConfig
from texdiff.errors import InputError

__all__ = [
    "RENAMED",
    "DataConfig",
    "InpaintConfig",
    "LayoutConfig",
    "LoraConfig",
    "MaskConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimConfig",
    "RunConfig",
    "SourceConfig",
    "TrainingConfig",
    "ValidationConfig",
]

RENAMED = {"optim.in_backward": "optim.fused_backward_pass"}
"""Keys that had another name once: an old checkpoint is read with the new one, and a user who gives the old is told."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A training run. Raises InputError for values that cannot be, alone or together."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    inpaint: InpaintConfig = field(default_factory=InpaintConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        for section in fields(self):
            check_bounds(section.name, getattr(self, section.name))
        for number, source in enumerate(self.data.sources):
            check_bounds(f"data.dataset[{number}]", source)
        for impossible, message in self._combinations():
            if impossible:
                raise InputError(message)

    def _combinations(self) -> Iterator[tuple[bool, str]]:
        """What is not possible together, and what to say of it."""
        model, mask, optim, run = self.model, self.mask, self.optim, self.run
        weights, repeats = (
            [number for number, source in enumerate(self.data.sources) if getattr(source, key) is not None]
            for key in ("weight", "repeats")
        )
        yield (
            bool(weights and repeats),
            f"data.dataset[{(repeats or [0])[0]}].repeats must not be given beside data.dataset[{(weights or [0])[0]}]."
            "weight: give sources weights, or repeats",
        )
        yield (
            all(source.loss_weight == 0 for source in self.data.sources),
            "data.dataset: every source has a loss_weight of 0, so nothing would be learnt; give one above 0",
        )
        yield (
            mask.outside == "base_model" and model.train == "full",
            "mask.outside base_model needs model.train lora or controlnet: where every weight is trained there is no "
            "base model beside the trained one",
        )
        yield (
            self.lora.init is not None and model.train != "lora",
            f"lora.init needs model.train lora (got {model.train})",
        )
        yield from self._addresses()
        yield from self._layout_combinations()
        yield (
            self.inpaint.mode == "layout" and self.inpaint.variants is not None,
            f"inpaint.variants needs inpaint.mode complete (got {self.inpaint.variants}): in layout every island is "
            "hidden, which is one way",
        )
        yield from self._window_combinations()
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
        yield from self._optimizer_combinations()
        yield (
            run.early_stopping_patience is not None and self.validation.every == 0,
            "run.early_stopping_patience needs validation.every above 0: at the end alone there is nothing to stop",
        )
        yield (
            optim.lr_scheduler == "constant" and optim.lr_warmup_steps > 0,
            f"optim.lr_warmup_steps must be 0 with optim.lr_scheduler constant (got {optim.lr_warmup_steps}); "
            "constant_with_warmup has a warm-up",
        )
        yield (
            optim.lr_warmup_steps > run.max_train_steps,
            f"optim.lr_warmup_steps must be at most run.max_train_steps, {run.max_train_steps} (got "
            f"{optim.lr_warmup_steps}): the learning rate would never reach its height",
        )

    def _optimizer_combinations(self) -> Iterator[tuple[bool, str]]:
        """The same of optimizers with ways of their own."""
        name, optim = self.optim.name, self.optim
        rate, key = self.optimizer.learning_rate, "optim" if self.layout.learning_rate is None else "layout"
        yield (
            name == "prodigy" and rate < 0.1,
            f"{key}.learning_rate must be at least 0.1 with optim.name prodigy, which finds the size of its steps (got "
            f"{rate:g}); 1 takes them as they are",
        )
        yield (
            name in ("prodigy", "schedule_free_adamw") and optim.fused_backward_pass,
            f"optim.fused_backward_pass must be false with optim.name {name}, whose step looks at all weights together",
        )
        yield (
            name == "schedule_free_adamw" and optim.lr_scheduler not in ("constant", "constant_with_warmup"),
            "optim.lr_scheduler must be constant or constant_with_warmup with optim.name schedule_free_adamw (got "
            f"{optim.lr_scheduler})",
        )
        yield (
            name == "schedule_free_adamw" and optim.use_ema,
            "optim.use_ema must be false with optim.name schedule_free_adamw, which keeps an average of its own",
        )

    def _layout_combinations(self) -> Iterator[tuple[bool, str]]:
        """The same of the section layout."""
        layout, train = self.layout, self.model.train
        used = layout.maps != "none"
        yield (
            train == "controlnet" and not used,
            "model.train controlnet needs layout.maps position or mask: what the net is to hear",
        )
        yield (
            train == "full" and used,
            "layout.maps must be none with model.train full; use controlnet, which trains a net beside the denoiser, "
            "or lora with layout.init",
        )
        yield (
            train == "lora" and used and layout.init is None,
            f"layout.maps {layout.maps} needs layout.init with model.train lora: the layout net to train under",
        )
        for key in ("init", "scale", "dropout"):
            yield (
                not used and bool(getattr(layout, key)),
                f"layout.{key} needs layout.maps position or mask (got {getattr(layout, key)} with none)",
            )
        yield (
            layout.scale is not None and layout.maps == "mask",
            f"layout.scale must be null with layout.maps mask, which has no positions (got {layout.scale})",
        )
        yield (
            layout.learning_rate is not None and train != "controlnet",
            "layout.learning_rate needs model.train controlnet: elsewhere the layout net is not trained",
        )

    def _addresses(self) -> Iterator[tuple[bool, str]]:
        """What has to be on a disk."""
        model, lora, layout = self.model, self.lora, self.layout
        for key, name in {
            "model.pretrained_model_name_or_path": model.pretrained_model_name_or_path,
            "model.vae": model.vae,
            "lora.init": lora.init,
            "layout.init": layout.init,
        }.items():
            yield (
                "://" in (name or ""),
                f"{key} must be on a disk (got {name}): storage that has an address is not read; copy it",
            )

    def _window_combinations(self) -> Iterator[tuple[bool, str]]:
        """The same of atlases that are cut to windows."""
        data = self.data
        most = data.source_resolution
        for key, default in (("scales", (1.0,)), ("min_crop_coverage", 0.0)):
            value = getattr(data, key)
            yield most is None and value != default, f"data.{key} needs data.source_resolution (got {value} with null)"
        yield (
            most is not None and most < data.resolution,
            f"data.source_resolution must be at least data.resolution, {data.resolution} (got {most})",
        )
        yield (
            most is not None and data.cache == "off",
            "data.source_resolution needs data.cache disk or memory: off would encode all of an atlas for each window",
        )

    @property
    def optimizer(self) -> OptimConfig:
        """The section optim, with the learning rate of what is trained."""
        rate = self.layout.learning_rate
        return self.optim if rate is None else replace(self.optim, learning_rate=rate)

    def against_cuda_graphs(self) -> list[str]:
        """Keys whose values keep the U-Net's passes from being recorded."""
        keys = {
            "run.gradient_checkpointing": self.run.gradient_checkpointing,
            # A replay writes its gradients where the one before it did, so that they would not add up.
            "run.gradient_accumulation_steps": self.run.gradient_accumulation_steps > 1,
            "lora.dropout": self.lora.dropout > 0,
            "mask.outside": self.mask.outside == "base_model",
            # The layout net's answers come on another way than the inputs of what is recorded.
            "layout.maps": self.layout.maps != "none",
            # All gradients are there at once then, where the point is that they never are.
            "optim.fused_backward_pass": self.optim.fused_backward_pass,
        }
        return [key for key, in_the_way in keys.items() if in_the_way]

    def is_wanted(self, choice: bool | None) -> bool:
        """What a key says of which null means: where exports are small, which those of a LoRA are."""
        return self.model.train == "lora" if choice is None else choice

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
