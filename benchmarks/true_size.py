"""A pipeline folder with Stable Diffusion 1.5's exact shapes and random weights: what a run of true size costs.

    python benchmarks/true_size.py [FOLDER]     # default: texdiff-sd15-shapes in the temporary folder

The folder takes 4.3 GB (float32). Speed and memory of training depend on the shapes alone, so they are measured on
it without downloading any weights; pictures made with it are noise. One part is in memory at a time.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from texdiff.models.nano import clip_tokenizer

SEED = 0


def unet() -> UNet2DConditionModel:
    """859.5 M parameters. Everything not named here is the class's default, which is SD 1's value."""
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=768,
        attention_head_dim=8,
    )


def vae(sample_size: int = 512, scaling_factor: float = 0.18215) -> AutoencoderKL:
    """83.7 M parameters."""
    return AutoencoderKL(
        sample_size=sample_size,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        scaling_factor=scaling_factor,
    )


def text_encoder() -> CLIPTextModel:
    """123.1 M parameters: CLIP ViT-L/14's text transformer."""
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return CLIPTextModel(config)


def scheduler() -> PNDMScheduler:
    """SD 1.5's schedule and sampler."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    )


def write_parts(folder: Path, parts: Mapping[str, Callable[[], Any]]) -> None:
    """Write models with random weights, one after the other; prints the number of parameters of each."""
    for name, make in parts.items():
        torch.manual_seed(SEED)
        model = make()
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        model.save_pretrained(folder / name)
        del model
        gc.collect()


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Last, because it is what makes the folder a pipeline: an interrupted run is not taken for one."""
    known = {"_diffusers_version": diffusers.__version__, **index}
    (folder / "model_index.json").write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def build(folder: Path) -> None:
    """Write the pipeline folder."""
    write_parts(folder, {"unet": unet, "vae": vae, "text_encoder": text_encoder})
    clip_tokenizer(folder / "tokenizer").save_pretrained(folder / "tokenizer")
    scheduler().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_index(folder, index)


def main(name: str, build: Callable[[Path], None]) -> None:
    """Build into the folder that the command line names, or else NAME in the temporary folder."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / name
    if (target / "model_index.json").exists():
        sys.exit(f"{target}: already a pipeline; delete it, or name another folder")
    build(target)
    print(f"wrote {target}")


if __name__ == "__main__":
    main("texdiff-sd15-shapes", build)
