"""How a text encoder reads prompts: how many tokens, and from which of its layers.

CLIP takes 77 tokens at once: a mark of the start, 75 of the text, marks of the end. A longer prompt is cut into chunks
of 75 tokens. Each is encoded alone, between marks of its own, and the results are concatenated, marks and all, 77 rows
a chunk: so do ComfyUI and the WebUI, which is where a LoRA is used. (kohya's scripts, in training, keep the first
start and the last end alone, and fill every caption up to the longest with empty chunks.) What ComfyUI and the WebUI
do besides is not done: both may end a chunk earlier, to keep a word or what follows a comma together.

A prompt has as many chunks as it needs. Where several must have one length each is repeated up to the least common
multiple, as in ComfyUI: attention over keys that are all repeated alike gives what it gives over them once, so no
result depends on which prompts are encoded together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from texdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class PromptReading:
    """What is read of a prompt."""

    chunks: int = 1
    """At most so many."""
    clip_skip: int | None = None
    """Layers of the text encoder that are left out at its end, as diffusers counts them."""

    @classmethod
    def of(cls, max_token_length: int, clip_skip: int | None) -> "PromptReading":
        """What the settings data.max_token_length and model.clip_skip say."""
        return cls(chunks=max(1, max_token_length // 75), clip_skip=clip_skip)

    def __str__(self) -> str:
        skip = "" if self.clip_skip is None else f", clip_skip {self.clip_skip}"
        return f"up to {75 * self.chunks} tokens{skip}"

    def check(self, layers: int) -> None:
        """Raise InputError where an encoder of so many layers has none left."""
        if self.clip_skip is not None and self.clip_skip >= layers:
            raise InputError(
                f"model.clip_skip must be below {layers}, the layers of this base's text encoder (got {self.clip_skip})"
            )

    def tokens_of(self, tokenizer: Any) -> int:
        """The tokens that are read of a prompt at most, without marks of start and end."""
        return self.chunks * (tokenizer.model_max_length - 2)

    @torch.no_grad()
    def encode(self, tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> list[Tensor]:
        """Of each prompt the encoder's last hidden state, or with `clip_skip` that of a layer before, normalised as
        the last is: [77 n, D] where it has n chunks. What is beyond the last chunk is cut."""
        tokens, counts = self._chunks(tokenizer, encoder, prompts)
        if self.clip_skip is None:
            states = encoder(tokens)[0]
        else:
            states = encoder(tokens, output_hidden_states=True).hidden_states[-(self.clip_skip + 1)]
            states = getattr(encoder, "text_model", encoder).final_layer_norm(states)
        return [part.flatten(0, 1) for part in states.split(counts)]

    @torch.no_grad()
    def encode_xl(
        self, tokenizers: Sequence[Any], encoders: Sequence[Any], prompts: Sequence[str]
    ) -> tuple[list[Tensor], Tensor]:
        """As Stable Diffusion XL has it: of each prompt the last hidden states but one of both encoders side by side,
        [77 n, D]; and the second one's projections [B, P], of first chunks."""
        states = []
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
            tokens, counts = self._chunks(tokenizer, encoder, prompts)
            output = encoder(tokens, output_hidden_states=True)
            states.append(output.hidden_states[-2])
        firsts = [sum(counts[:row]) for row in range(len(counts))]
        return [part.flatten(0, 1) for part in torch.cat(states, dim=-1).split(counts)], output[0][firsts]

    def _chunks(self, tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """The chunks [N, 77] of all prompts, and how many each has."""
        size = tokenizer.model_max_length - 2
        start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        chunks, counts = [], []
        for ids in tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids:
            parts = [ids[first : first + size] for first in range(0, max(len(ids), 1), size)][: self.chunks]
            chunks += [[start, *part, end, *[pad] * (size - len(part))] for part in parts]
            counts.append(len(parts))
        return torch.tensor(chunks, device=encoder.device), counts

    def left_out(self, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
        """A line for each prompt of which only the beginning is read."""
        limit, lines = self.tokens_of(tokenizer), []
        for prompt in prompts:
            ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
            if len(ids) > limit:
                rest = tokenizer.decode(ids[limit:])
                rest = f"{rest[:60]}..." if len(rest) > 60 else rest
                lines.append(f'"{prompt[:30]}...": the base reads {limit} tokens; "{rest}" is left out')
        return lines


def same_length(parts: Sequence[Tensor]) -> list[Tensor]:
    """Each [L, ...], repeated to the least common multiple of all L."""
    rows = math.lcm(*(len(part) for part in parts))
    return [part.repeat(rows // len(part), *[1] * (part.ndim - 1)) for part in parts]


def _together(prompt: str | list[str], negative_prompt: str | Sequence[str] | None) -> list[str]:
    """Prompts, and after them as many negative ones; of none (None) the empty one, and () for no guidance."""
    prompts = [prompt] if isinstance(prompt, str) else prompt
    negative = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else negative_prompt
    return [*prompts, *(list(negative) * len(prompts) if len(negative) == 1 else negative)]


class PromptReader:
    """In the place of a Stable Diffusion pipeline's `encode_prompt`: reads prompts and negative ones as `reading` says,
    where diffusers reads one chunk, and takes `clip_skip` for the first kind alone."""

    def __init__(self, pipeline: Any, reading: PromptReading) -> None:
        self.pipeline, self.reading = pipeline, reading

    def __call__(
        self,
        prompt: str | list[str],
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        **given: object,
    ) -> tuple[Tensor, Tensor | None]:
        """The embeddings [B, L, D] of prompts and, with guidance, of negative prompts."""
        prompts = _together(prompt, negative_prompt if do_classifier_free_guidance else ())
        encoder = self.pipeline.text_encoder
        parts = self.reading.encode(self.pipeline.tokenizer, encoder, prompts)
        embedded = torch.stack(same_length(parts)).to(device, encoder.dtype)
        embedded = embedded.repeat_interleave(num_images_per_prompt, dim=0)
        if not do_classifier_free_guidance:
            return embedded, None
        positive, unconditional = embedded.chunk(2)
        return positive, unconditional


class PromptReaderXL(PromptReader):
    """The same in the place of a Stable Diffusion XL pipeline's."""

    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str],
        device: torch.device,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: str | list[str] | None = None,
        **given: object,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """The embeddings [B, L, D] of prompts and, with guidance, of negative prompts; and their projections [B, P]."""
        prompts = _together(prompt, negative_prompt if do_classifier_free_guidance else ())
        pipeline = self.pipeline
        encoders = pipeline.text_encoder, pipeline.text_encoder_2
        parts, pooled = self.reading.encode_xl((pipeline.tokenizer, pipeline.tokenizer_2), encoders, prompts)
        each = torch.stack(same_length(parts)), pooled
        text, pooled = (t.to(device, encoders[1].dtype).repeat_interleave(num_images_per_prompt, dim=0) for t in each)
        if not do_classifier_free_guidance:
            return text, None, pooled, None
        (text, no_text), (pooled, no_pooled) = text.chunk(2), pooled.chunk(2)
        if negative_prompt is None and pipeline.config.force_zeros_for_empty_prompt:
            no_text, no_pooled = torch.zeros_like(no_text), torch.zeros_like(no_pooled)
        return text, no_text, pooled, no_pooled


def is_xl(pipeline: Any) -> bool:
    """Whether the pipeline has two text encoders."""
    return "text_encoder_2" in pipeline.components


def read_prompts_as(pipeline: Any, reading: PromptReading) -> None:
    """Let a Stable Diffusion pipeline read prompts so. Raises InputError where its text encoder has too few layers."""
    reading.check(pipeline.text_encoder.config.num_hidden_layers)
    if reading != reading_of(pipeline):
        pipeline.encode_prompt = (PromptReaderXL if is_xl(pipeline) else PromptReader)(pipeline, reading)


def reading_of(pipeline: Any) -> PromptReading:
    """How a Stable Diffusion pipeline reads prompts."""
    return getattr(pipeline.encode_prompt, "reading", PromptReading())
