"""What training needs of a GPU's memory, counted without one: weights, gradients, optimiser and what backward keeps.

    python -m benchmarks.memory_estimate

The U-Net of each base runs forward on PyTorch's "meta" device, which computes shapes alone, in bf16; the bytes of the
tensors that backward keeps are counted, each storage once. Frozen weights are in bf16; trained ones in float32, with a
gradient and AdamW's two moments in float32, and a copy in bf16 from autocast in full fine-tuning. Not counted: CUDA's
own context, workspaces of kernels and fragments. Attention keeps what fused kernels keep: its inputs and output.
An H200 peaked at 4.0 GB where 2.5 were counted, and at 7.1 where 4.9 were (LoRA, batch 1 and 4): autocast keeps more,
since norms give float32. `texdiff doctor` shows 1.5 times what is counted for a LoRA.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor

from benchmarks.floor import added_inputs
from benchmarks.true_size import unet as sd15_unet
from benchmarks.true_size_xl import unet as sdxl_unet

BASES: dict[str, tuple[Callable[[], UNet2DConditionModel], int]] = {
    "SD 1.5": (sd15_unet, 512),
    "SDXL": (sdxl_unet, 1024),
}


class FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps for its backward pass; the meta device would keep the product of queries and keys."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output


def estimate(make: Callable[[], UNet2DConditionModel], size: int, batch: int, rank: int, checkpointed: bool) -> float:
    """Bytes of a step at `size` px; rank 0 trains every weight."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        unet = make()
    frozen = sum(p.numel() for p in unet.parameters())
    if rank:
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        trained = sum(p.numel() for p in unet.parameters() if p.requires_grad)
        weights = 2 * frozen + 16 * trained
    else:
        weights = (16 + 2) * frozen
    if checkpointed:
        unet.enable_gradient_checkpointing()
    unet.train()
    own = {p.untyped_storage()._cdata for p in unet.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # so that no later storage gets its address
        return tensor

    side = size // 8
    latents = torch.empty(batch, 4, side, side, device="meta", dtype=torch.bfloat16)
    text = torch.empty(batch, 77, unet.config.cross_attention_dim, device="meta", dtype=torch.bfloat16)
    more = added_inputs(unet, batch, size, "meta")
    fused = patch(
        "torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **_: FusedAttention.apply(q, k, v)
    )
    with fused, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        unet(latents, torch.zeros(batch, dtype=torch.long, device="meta"), text, **more)
    return weights + sum(kept.values())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| base | train | batch | gradient checkpointing | counted, GB |\n|---|---|---|---|---|")
    for name, (make, size) in BASES.items():
        for rank, batch, checkpointed in ((8, 1, False), (8, 4, False), (8, 1, True), (0, 1, False), (0, 1, True)):
            counted = estimate(make, size, batch, rank, checkpointed) / 1e9
            train = f"LoRA of rank {rank}" if rank else "full, AdamW"
            print(
                f"| {name}, {size} px | {train} | {batch} | {'yes' if checkpointed else 'no'} | {counted:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
