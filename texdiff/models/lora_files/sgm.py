"""Names of Stable Diffusion XL's layers in the code that it was published with (SGM), which kohya's files use."""

import re

_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_INNER = re.compile(r"(down|mid|up)_blocks?\.(?:(\d)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)")


def sgm_name(layer: str) -> str:
    """From diffusers' name of a layer of its U-Net, which has two layers to a level."""
    if layer in _OUTER:
        return _OUTER[layer]
    match = _INNER.fullmatch(layer)
    assert match, layer
    place, level, kind, number, rest = match.groups()
    i, j = int(level or 0), int(number)
    if kind == "downsamplers":
        return f"input_blocks.{3 * i + 3}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{3 * i + 2}.2.conv"
    attention = kind == "attentions"
    rest = rest if attention else _RESNET[rest]
    if place == "mid":
        return f"middle_block.{1 if attention else 2 * j}.{rest}"
    block = f"input_blocks.{3 * i + j + 1}" if place == "down" else f"output_blocks.{3 * i + j}"
    return f"{block}.{int(attention)}.{rest}"
