"""As true_size.py, with Stable Diffusion XL's shapes: 6.9 GB, in bfloat16 as such bases are published in 16 bits.

python -m benchmarks.true_size_xl [FOLDER]  # default: texdiff-sdxl-shapes in the temporary folder
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

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


def vae() -> AutoencoderKL:
    """83.7 M parameters."""
    return AutoencoderKL(
        sample_size=1024,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=0.13025,
    )


def text_encoder() -> CLIPTextModel:
    """123.1 M parameters: CLIP ViT-L/14's text transformer."""
    config = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPTextModel(CLIPTextConfig(**config, projection_dim=768, eos_token_id=2))


def text_encoder_2() -> CLIPTextModelWithProjection:
    """694.7 M parameters: OpenCLIP bigG's text transformer."""
    config = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config, projection_dim=1280, hidden_act="gelu", eos_token_id=2))


PARTS: dict[str, Callable[[], Any]] = {
    "unet": unet,
    "vae": vae,
    "text_encoder": text_encoder,
    "text_encoder_2": text_encoder_2,
}


def build(folder: Path) -> None:
    """Write the pipeline folder, one part after the other; prints the number of parameters of each."""
    torch.set_default_dtype(torch.bfloat16)  # so that none is in memory in float32 either
    for name, make in PARTS.items():
        torch.manual_seed(0)
        model = make()
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        model.save_pretrained(folder / name)
        del model
        gc.collect()
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        clip_tokenizer(folder / name, padding).save_pretrained(folder / name)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    EulerDiscreteScheduler(**schedule, timestep_spacing="leading").save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": diffusers.__version__,
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    # Last, because it is what makes the folder a pipeline: an interrupted run is not taken for one.
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "texdiff-sdxl-shapes"
    if (target / "model_index.json").exists():
        sys.exit(f"{target}: already a pipeline; delete it, or name another folder")
    build(target)
    print(f"wrote {target}")
