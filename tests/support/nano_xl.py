"""nano-xl: a Stable Diffusion XL of the true classes and the true topology, in tiny widths, with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SIDE = 64
"""Pixels."""
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERY_LAYER = (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut")
EVERY_LAYER += ("time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out")
EVERY_LAYER += (
    "time_embedding.linear_1",
    "time_embedding.linear_2",
    "add_embedding.linear_1",
    "add_embedding.linear_2",
)


def build(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write the pipeline folder; `settings` are the pipeline's own, such as force_zeros_for_empty_prompt."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from texdiff.models.nano import clip_tokenizer

    text = {"vocab_size": 49408, "num_hidden_layers": 3, "num_attention_heads": 4, "eos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=SIDE,
            scaling_factor=0.13025,
        )
        first = CLIPTextModel(
            CLIPTextConfig(**text, hidden_size=16, intermediate_size=32, projection_dim=16, hidden_act="quick_gelu")
        )
        second = CLIPTextModelWithProjection(
            CLIPTextConfig(**text, hidden_size=24, intermediate_size=48, projection_dim=20, hidden_act="gelu")
        )
        pipeline = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=first,
            text_encoder_2=second,
            tokenizer=clip_tokenizer(folder / "tokenizer"),
            tokenizer_2=clip_tokenizer(folder / "tokenizer_2", pad_token="!"),
            unet=make_unet(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                prediction_type="epsilon",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            **settings,
        )
    pipeline.save_pretrained(folder)
    return folder


def make_unet() -> Any:
    """SDXL's levels, layers and transformer depths (but 2 for 10), 16 channels for 320."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(2, 4, 4),
        use_linear_projection=True,
        cross_attention_dim=16 + 24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=20 + 6 * 8,
        norm_num_groups=8,
    )


@pytest.fixture(scope="session")
def base_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return build(tmp_path_factory.mktemp("xl"))


def prediction(unet: Any) -> torch.Tensor:
    """Of fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, 40, generator=generator)
    added = {
        "text_embeds": torch.randn(2, 20, generator=generator),
        "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * 2),
    }
    with torch.no_grad():
        return unet.eval()(noisy, torch.tensor([10, 800]), text, added_cond_kwargs=added).sample


def export(tuned: Any, folder: Path) -> dict[str, Any]:
    """Write the adapters in diffusers' layout and as kohya.safetensors, whose tensors are returned."""
    from texdiff.config import DataConfig, TrainingConfig
    from texdiff.models.lora_files import LORA_FILE
    from texdiff.models.lora_files.kohya import write_kohya
    from texdiff.models.lora_files.metadata import lora_metadata
    from texdiff.models.lora_files.write import write_lora

    settings = TrainingConfig(data=DataConfig(dataset="x")).to_dict()
    write_lora(tuned, folder, lora_metadata(settings, tuned, "epsilon", textures=1, steps=1))
    write_kohya(folder / LORA_FILE, folder / "kohya.safetensors")
    return load_file(folder / "kohya.safetensors")
