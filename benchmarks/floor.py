"""What a training step costs at least: its floating-point operations, and how fast this machine multiplies matrices.

    python -m benchmarks.floor FOLDER [--resolution 512] [--batch 1] [--rank 8] [--dtype float32]

A rank of 0 trains the whole U-Net.
Prints one JSON object. Operations are those of matrix products and convolutions (2 for a multiplication with an
addition), counted by running the U-Net without data; the gradients of frozen weights are not among them, and nothing
is counted twice where an implementation computes it twice.
"""

import argparse
import json
import time
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode


def added_inputs(unet: UNet2DConditionModel, batch: int, resolution: int, device: str) -> dict[str, Any]:
    """What Stable Diffusion XL's U-Net is given besides: projections of prompts, and the picture's size."""
    if unet.config.addition_embed_type != "text_time":
        return {}
    width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    size = torch.tensor([[resolution, resolution, 0, 0, resolution, resolution]] * batch, device=device)
    return {"added_cond_kwargs": {"text_embeds": torch.zeros(batch, width, device=device), "time_ids": size}}


def step_flops(folder: str, resolution: int, batch: int, rank: int) -> int:
    """Operations of forward and backward pass of the U-Net in the pipeline `folder`; `rank` 0 trains it whole."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
    if rank:
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    unet.to("meta").train()
    side = resolution // 8
    latents = torch.empty(batch, unet.config.in_channels, side, side, device="meta")
    text = torch.empty(batch, 77, unet.config.cross_attention_dim, device="meta")
    with FlopCounterMode(display=False) as counter:
        t = torch.zeros(batch, dtype=torch.long, device="meta")
        unet(latents, t, text, **added_inputs(unet, batch, resolution, "meta")).sample.sum().backward()
    return counter.get_total_flops()


def multiplication_rate(dtype: torch.dtype, side: int, repeats: int) -> float:
    """Floating-point operations a second of the product of two square matrices: the best of `repeats`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        _ = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the product that is timed"
    )
    given = parser.parse_args()
    flops = step_flops(given.folder, given.resolution, given.batch, given.rank)
    side = 8192 if torch.cuda.is_available() else 2048
    rate = multiplication_rate(getattr(torch, given.dtype), side, repeats=9)
    print(json.dumps({"flops": flops, "flops_per_second": rate, "seconds": flops / rate}))


if __name__ == "__main__":
    main()
