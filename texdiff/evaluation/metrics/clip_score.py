"""How well pictures fit their prompts, in the eyes of a CLIP."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from texdiff.errors import InputError
from texdiff.evaluation.metrics.extractors import TransformersVision
from texdiff.evaluation.metrics.features import to_tensor
from texdiff.evaluation.metrics.image import Pictures, check_pictures


class PromptAgreement:
    """A CLIP of transformers, by folder or hub id.

    Raises:
        InputError: it cannot be loaded, or is no CLIP.
    """

    def __init__(self, name: str) -> None:
        self._vision = TransformersVision(name, flag="--clip")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._longest = self._vision.model.config.text_config.max_position_embeddings
        except Exception as error:  # no tokenizer, or a model without a text side
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"--clip {name}: is no CLIP with its tokenizer ({reason})") from None

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> float:
        """Mean cosine of picture number i and prompt number i; pictures uint8 [N, H, W, 3]."""
        seen = self._vision.normalised(to_tensor(check_pictures(pictures)))
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        )
        with torch.inference_mode():
            out = self._vision.model(pixel_values=seen, **tokens)
        return float((out.image_embeds * out.text_embeds).sum(dim=1).double().mean())  # both have length 1
