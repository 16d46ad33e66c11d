"""Begin with an earlier edition's autoencoder, with more channels at its coarsest level than it had.

A new channel is a copy of one in its own normalisation group, and what reads the two gives each about half of the
weight (Net2Net, Chen and others 2015): the function stays nearly the same, and what an edition learnt is not lost.
Only normalisation sees the difference, since some channels count twice in its groups.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor

from texdiff.models.nano import make_vae

UNEVEN = 0.05
"""How far the halves of a copied channel's weight differ from a half, so that the copies learn different things."""


def channel_of(old: int, new: int, groups: int) -> Tensor:
    """For each of the `new` channels the old one that it copies, int [new]; both counts are multiples of `groups`."""
    each, wider = old // groups, new // groups
    within = torch.arange(wider) % each
    return (torch.arange(groups)[:, None] * each + within).flatten()


def widened(weight: Tensor, shape: torch.Size, groups: int) -> Tensor:
    """A layer's weight or bias with more outputs (its first axis), inputs (its second), or both."""
    if weight.shape[0] != shape[0]:
        weight = weight[channel_of(weight.shape[0], shape[0], groups)]
    if weight.dim() > 1 and weight.shape[1] != shape[1]:
        source = channel_of(weight.shape[1], shape[1], groups)
        copies = torch.bincount(source)[source]
        share = 1 / copies + UNEVEN * (torch.rand(len(source)) - 0.5) * (copies > 1)
        total = torch.zeros(weight.shape[1]).index_add(0, source, share)[source]
        weight = weight[:, source] * (share / total).view(-1, *[1] * (weight.dim() - 2))
    return weight


def begin_with(folder: Path) -> AutoencoderKL:
    """Today's autoencoder with the weights of `folder`, a vae/ as diffusers writes it."""
    vae = make_vae()
    old = load_file(folder / "diffusion_pytorch_model.safetensors")
    groups = vae.config.norm_num_groups
    state = {name: widened(old[name].float(), value.shape, groups) for name, value in vae.state_dict().items()}
    vae.load_state_dict(state)
    return vae
