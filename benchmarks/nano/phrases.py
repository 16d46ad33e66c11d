"""Captions as people vary them, all tokenised beforehand."""

import torch
from transformers import CLIPTokenizer

WAYS = (("", 0.10), ("{}", 0.65), ("{} texture", 0.15), ("a texture of {}", 0.10))
"""How a caption is put, and how often. One in ten is empty, for classifier-free guidance."""


class Phrases:
    """Captions in every way that they are put."""

    def __init__(self, captions: list[str], tokenizer: CLIPTokenizer, device: str) -> None:
        different = list(dict.fromkeys(captions))
        texts = [way.format(text) for text in different for way, _ in WAYS]
        tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.tokens = tokens.view(len(different), len(WAYS), 77).to(device)
        position = {text: i for i, text in enumerate(different)}
        self.caption = torch.tensor([position[text] for text in captions], device=device)
        self.cumulative = torch.tensor([share for _, share in WAYS], device=device).cumsum(0)

    def draw(self, chosen: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 77] of the captions of the samples `chosen` [B]."""
        uniform = torch.rand(len(chosen), device=chosen.device)
        way = torch.searchsorted(self.cumulative, uniform).clamp(max=len(self.cumulative) - 1)
        return self.tokens[self.caption[chosen], way]
