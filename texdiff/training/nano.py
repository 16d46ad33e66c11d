"""`nano`: a small Stable Diffusion of the true classes, built by code, so that everything runs offline.

Its shapes are Stable Diffusion 1's in small: an 8x autoencoder with 4 channels, CLIP's tokenizer and text
transformer, a cross-attention U-Net, and the same noise schedule. The weights are random.

    python -m texdiff.training.nano FOLDER        # writes the pipeline folder
"""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

RESOLUTION = 256


def clip_tokenizer(folder: Path) -> "CLIPTokenizer":
    """CLIP's byte-pair tokenizer (49,408 entries), made from its list of merges; writes its files to `folder`."""
    from transformers import CLIPTokenizer

    merges = files("texdiff").joinpath("assets/clip_bpe/merges.txt").read_text(encoding="utf-8")
    pairs = merges.splitlines()[1:]
    symbols = _byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *(p.replace(" ", "") for p in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text(merges, "utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=77,
        pad_token="<|endoftext|>",
    )
    return tokenizer


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in CLIP's vocabulary, in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = 256 - len(printable)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(rest)]


def build(folder: Path, seed: int = 0) -> None:
    """Write the pipeline folder with random weights drawn from `seed`."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=(16, 32, 64, 64),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=RESOLUTION,
            scaling_factor=0.18215,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                projection_dim=64,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=(48, 96, 128),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=16,
        )
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="epsilon",
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
