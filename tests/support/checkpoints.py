"""Pipelines as the single files of their original code, by that code's names of layers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]


def write_checkpoint(pipeline: Any, file: Path, open_clip: bool = False, **metadata: str) -> Path:
    """All parts of a Stable Diffusion pipeline in one file; with `open_clip` its text encoder is of 2's kind."""
    weights = {f"model.diffusion_model.{k}": t.float() for k, t in unet_weights(pipeline.unet).items()}
    weights |= {f"first_stage_model.{k}": t for k, t in vae_weights(pipeline.vae).items()}
    first = pipeline.text_encoder.state_dict()
    if hasattr(pipeline, "text_encoder_2"):
        weights |= clip_weights(first, "conditioner.embedders.0.transformer.")
        weights |= open_clip_weights(pipeline.text_encoder_2.state_dict(), "conditioner.embedders.1.model.")
    elif open_clip:
        weights |= open_clip_weights(first, "cond_stage_model.model.")
    else:
        weights |= clip_weights(first, "cond_stage_model.transformer.")
    save_file({k: t.detach().clone().contiguous() for k, t in weights.items()}, file, metadata=metadata)
    return file


def clip_weights(state: Weights, prefix: str) -> Weights:
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in state.items()}


def open_clip_weights(state: Weights, prefix: str) -> Weights:
    """Queries, keys and values in one matrix; the projection the other way round."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    found: Weights = {}
    names = {"embeddings.token_embedding.weight": "token_embedding.weight"}
    names |= {"embeddings.position_embedding.weight": "positional_embedding"}
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for key, tensor in state.items():
        if key in names:
            found[names[key]] = tensor
        elif key.startswith("final_layer_norm"):
            found[key.replace("final_layer_norm", "ln_final")] = tensor
        elif key == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif key.startswith("encoder.layers"):
            _, _, number, *rest = key.split(".")
            part, kind = ".".join(rest[:-1]), rest[-1]
            if part == "self_attn.q_proj":
                three = [state[key.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                found[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(three)
            elif part in parts:
                found[f"transformer.resblocks.{number}.{parts[part]}.{kind}"] = tensor
    return {prefix + key: tensor for key, tensor in found.items()}


def vae_weights(vae: Any) -> Weights:
    """Levels of the decoder are counted from the finest; attention is of 1x1 convolutions."""
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    names = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "conv_norm_out": "norm_out"}
    names |= {f"mid_block.attentions.0.{theirs}": f"mid.attn_1.{ours}" for theirs, ours in attention.items()}
    last = len(vae.encoder.down_blocks) - 1
    for level in range(last + 1):
        for layer in range(len(vae.decoder.up_blocks[level].resnets)):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"down.{level}.block.{layer}"
            names[f"up_blocks.{level}.resnets.{layer}"] = f"up.{last - level}.block.{layer}"
        names[f"down_blocks.{level}.downsamplers.0"] = f"down.{level}.downsample"
        names[f"up_blocks.{level}.upsamplers.0"] = f"up.{last - level}.upsample"
    found: Weights = {}
    for key, tensor in vae.state_dict().items():
        half, _, rest = key.partition(".")
        for theirs, ours in names.items():
            if rest.startswith(f"{theirs}."):
                rest = ours + rest.removeprefix(theirs)
                break
        if "attn_1" in rest and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        found[f"{half}.{rest}".replace("conv_shortcut", "nin_shortcut")] = tensor
    return found


def unet_names(unet: Any) -> Iterator[tuple[str, str]]:
    """(prefix in diffusers' model, prefix in the checkpoint that ComfyUI loads), by the rules of its key map.

    Blocks are counted through; a level's downsampler is one of its own, its upsampler the last part of its last one.
    """
    outer = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    outer |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    yield from (outer | {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}).items()
    parts = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0"}
    parts |= {"conv2": "out_layers.3", "conv_shortcut": "skip_connection"}

    def resnet(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
        yield from ((f"{theirs}.{a}", f"{ours}.{b}") for a, b in parts.items())

    count = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            yield from resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{count}.0")
            if hasattr(block, "attentions"):
                yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{count}.1"
            count += 1
        if block.downsamplers is not None:
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{count}.0.op"
            count += 1
    yield from resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from resnet("mid_block.resnets.1", "middle_block.2")
    count = 0
    for level, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            last = 1
            yield from resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{count}.0")
            if hasattr(block, "attentions"):
                yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{count}.1"
                last = 2
            if block.upsamplers is not None and layer == len(block.resnets) - 1:
                yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{count}.{last}.conv"
            count += 1


def unet_weights(unet: Any) -> dict[str, torch.Tensor]:
    """The U-Net's weights in float64 as ComfyUI has them, under the names of the published code."""
    names = dict(unet_names(unet))
    found = {}
    for key, tensor in unet.state_dict().items():
        (prefix,) = [name for name in names if key.startswith(f"{name}.")]
        found[names[prefix] + key.removeprefix(prefix)] = tensor.double()
    return found
