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
        size = tokenizer.model_max_length - 2
        start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        chunks, counts = [], []
        for ids in tokenizer(list(prompts), add_special_tokens=False, verbose=False).input_ids:
            parts = [ids[first : first + size] for first in range(0, max(len(ids), 1), size)][: self.chunks]
            chunks += [[start, *part, end, *[pad] * (size - len(part))] for part in parts]
            counts.append(len(parts))
        tokens = torch.tensor(chunks, device=encoder.device)
        if self.clip_skip is None:
            states = encoder(tokens)[0]
        else:
            states = encoder(tokens, output_hidden_states=True).hidden_states[-(self.clip_skip + 1)]
            states = getattr(encoder, "text_model", encoder).final_layer_norm(states)
        return [part.flatten(0, 1) for part in states.split(counts)]

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
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negative = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else negative_prompt
        if do_classifier_free_guidance:
            prompts = [*prompts, *(negative * len(prompts) if len(negative) == 1 else negative)]
        encoder = self.pipeline.text_encoder
        parts = self.reading.encode(self.pipeline.tokenizer, encoder, prompts)
        embedded = torch.stack(same_length(parts)).to(device, encoder.dtype)
        embedded = embedded.repeat_interleave(num_images_per_prompt, dim=0)
        if not do_classifier_free_guidance:
            return embedded, None
        positive, unconditional = embedded.chunk(2)
        return positive, unconditional


def read_prompts_as(pipeline: Any, reading: PromptReading) -> None:
    """Let a Stable Diffusion pipeline read prompts so. Raises InputError where its text encoder has too few layers."""
    reading.check(pipeline.text_encoder.config.num_hidden_layers)
    if reading != reading_of(pipeline):
        pipeline.encode_prompt = PromptReader(pipeline, reading)


def reading_of(pipeline: Any) -> PromptReading:
    """How a Stable Diffusion pipeline reads prompts."""
    return getattr(pipeline.encode_prompt, "reading", PromptReading())
