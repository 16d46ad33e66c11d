"""nano's own layout net: it is there by name, and colours go where the caption puts them on the mesh."""

import numpy as np
import pytest
import torch

from texdiff.demo.looks import Look, describe, paint_look
from texdiff.demo.patterns import Pattern
from texdiff.demo.shapes import SHAPES, pack
from texdiff.diffusion.mask import downsample
from texdiff.models.base import load_base
from texdiff.models.layout_net import maps_of, read_layout_net
from texdiff.uv.gutter import fill


def test_net_is_read_by_name_and_hears_position_maps():
    net = read_layout_net("nano")
    assert maps_of(net).kind == "position"
    assert sum(p.numel() for p in net.parameters()) * 2 <= 6e6  # bytes in half precision


@pytest.mark.slow
def test_a_colour_on_top_is_expected_where_the_map_says_that_the_top_is():
    base, net = load_base("nano"), read_layout_net("nano")
    cumulative = base.scheduler.alphas_cumprod
    errors = []
    for number, (shape, colours) in enumerate(
        [("crate", ("red", "white")), ("barrel", ("blue", "yellow")), ("table", ("green", "purple"))]
    ):
        rng = np.random.default_rng((7, number))
        mesh = pack(SHAPES[shape](rng), rng, gap=0.03)
        plain, accent = (Pattern(material="cloth", colour=colour) for colour in colours)
        look = Look(pattern=plain, accent=accent, place="top")
        picture, positions = paint_look(look, mesh, 256, rng)
        mask = positions.any(axis=2)
        pixels = torch.from_numpy(fill(picture, mask)).permute(2, 0, 1)[None].float() / 127.5 - 1
        upside_down = np.where(mask[..., None], positions * [1, -1, 1] + [0, 1, 0], 0).astype(np.float32)
        maps = torch.from_numpy(np.stack([positions, upside_down])).permute(0, 3, 1, 2)
        tokens = base.tokenizer(describe(look, shape), padding="max_length", max_length=77, return_tensors="pt")
        weight = downsample(torch.from_numpy(mask)[None, None].float(), (32, 32))
        with torch.no_grad():
            latents = base.vae.encode(pixels).latent_dist.mean * base.vae.config.scaling_factor
            prompt = base.text_encoder(tokens.input_ids)[0].expand(2, -1, -1)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number))
            noisy = cumulative[900].sqrt() * latents + (1 - cumulative[900]).sqrt() * noise
            noisy, t = noisy.expand(2, -1, -1, -1), torch.tensor(900)
            down, middle = net(noisy, t, prompt, maps, return_dict=False)
            predicted = base.unet(
                noisy,
                t,
                prompt,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        errors.append(((predicted - noise) ** 2 * weight).sum(dim=(1, 2, 3)))
    own, other = torch.stack(errors).sum(dim=0).tolist()
    assert own < 0.8 * other
