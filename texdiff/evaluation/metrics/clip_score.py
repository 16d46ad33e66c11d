"""CLIP score: how well images fit their prompts, as a CLIP sees it (Hessel et al., 2021, without its factor of 2.5)."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from texdiff.errors import InputError, one_line
from texdiff.evaluation.metrics.features import TransformersVision, to_tensor
from texdiff.evaluation.metrics.image import Images, check_images


class ClipScore:
    """A CLIP of transformers, by folder or hub id, on a device.

    Raises:
        InputError: it cannot be loaded, or is not a CLIP.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self._vision = TransformersVision(name, torch.device(device), flag="--clip")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._longest = self._vision.model.config.text_config.max_position_embeddings
        except Exception as error:  # no tokenizer, or a model without a text side
            raise InputError(f"--clip {name}: not a CLIP with its tokenizer ({one_line(error)[:200]})") from None

    def __call__(self, images: Images, prompts: Sequence[str]) -> float:
        """Mean cosine of the embeddings of image number i and prompt number i; images uint8 [N, H, W, 3]."""
        seen = self._vision.normalised(to_tensor(check_images(images)))
        tokens = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._vision.device)
        with torch.inference_mode():
            out = self._vision.model(pixel_values=seen, **tokens)
        return float((out.image_embeds * out.text_embeds).sum(dim=1).double().mean())  # both have length 1
