"""The floor of a training step: forward, backward and AdamW of a U-Net with LoRA, on tensors that are already there.

    python -m benchmarks.bare_step FOLDER [--resolution 512] [--batch 1] [--rank 8] [--steps 6] [--seed 0]

Nothing of texdiff is in it. FOLDER is a diffusers pipeline; on the GPU where there is one. With --dtype bfloat16 frozen
weights have that type and the adapters float32, under autocast, as diffusers' script does it.
"""

import argparse

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from benchmarks.floor import added_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name, default in {"resolution": 512, "batch": 1, "rank": 8, "steps": 6, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    given = parser.parse_args()

    dtype = getattr(torch, given.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(given.seed)
    unet = UNet2DConditionModel.from_pretrained(given.folder, subfolder="unet").to(dtype)
    unet.requires_grad_(False)
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(
        LoraConfig(r=given.rank, lora_alpha=given.rank, init_lora_weights="gaussian", target_modules=layers)
    )
    unet.to(device).train()
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    side = given.resolution // 8
    latents, target = torch.randn(2, given.batch, unet.config.in_channels, side, side, device=device)
    text = torch.randn(given.batch, 77, unet.config.cross_attention_dim, device=device)
    added = added_inputs(unet, given.batch, given.resolution, device)
    timesteps = torch.randint(1000, (given.batch,), device=device)
    for _ in range(given.steps):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            prediction = unet(latents.to(dtype), timesteps, text.to(dtype), **added).sample
        F.mse_loss(prediction.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
