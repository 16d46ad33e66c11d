"""As true_size.py, with Stable Diffusion XL's shapes: 6.9 GB, in bfloat16 as such bases are published in 16 bits.

python -m benchmarks.true_size_xl [FOLDER]  # default: texdiff-sdxl-shapes in the temporary folder
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from benchmarks import true_size
from texdiff.models.nano import clip_tokenizer


def unet() -> UNet2DConditionModel:
    """2,567 M parameters."""
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def text_encoder_2() -> CLIPTextModelWithProjection:
    """694.7 M parameters: OpenCLIP bigG's text transformer."""
    config = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config, projection_dim=1280, hidden_act="gelu", eos_token_id=2))


PARTS: dict[str, Callable[[], Any]] = {
    "unet": unet,
    "vae": partial(true_size.vae, 1024, 0.13025),
    "text_encoder": true_size.text_encoder,
    "text_encoder_2": text_encoder_2,
}


def build(folder: Path) -> None:
    """Write the pipeline folder."""
    torch.set_default_dtype(torch.bfloat16)  # so that none is in memory in float32 either
    true_size.write_parts(folder, PARTS)
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        clip_tokenizer(folder / name, padding).save_pretrained(folder / name)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    EulerDiscreteScheduler(**schedule, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    true_size.write_index(folder, index)


if __name__ == "__main__":
    true_size.main("texdiff-sdxl-shapes", build)
