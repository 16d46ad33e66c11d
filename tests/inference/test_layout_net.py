"""Drawing under a layout net: what diffusers' own pipelines draw of the mesh's map."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from texdiff.errors import InputError
from texdiff.inference.generate import generate
from texdiff.inference.sampler import initial_noise
from texdiff.inference.target import read_target
from texdiff.models.base import load_base
from texdiff.models.layout_net import Maps, describe_maps, make_layout_net, read_layout_net, write_layout_net
from texdiff.models.stable_diffusion import quick_sampler
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.position import position_map
from texdiff.uv.meshes import read_parts

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="session")
def net(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a layout net of which no weight is 0."""
    folder = tmp_path_factory.mktemp("net")
    made = make_layout_net(load_base(str(base)).unet, 8, Maps())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    write_layout_net(made, folder / "controlnet")
    return folder


@pytest.fixture
def draw(base: Path, four_squares_obj: Path, tmp_path: Path) -> Any:
    """`draw(**arguments)`: the texels of the mesh's atlas that it covers, of each texture that is made."""
    mask = coverage_mask(read_target(four_squares_obj).triangles, (64, 64))

    def run(**arguments: Any) -> list[np.ndarray]:
        given = {"mesh": four_squares_obj, "prompt": "a crate", "num_inference_steps": 3} | arguments
        files = generate(model=str(base), output=tmp_path / "made.png", **given)
        return [np.asarray(Image.open(file))[mask] for file in files]

    return run


def stock(base: Path, net: Path, mesh: Path, seed: int, **arguments: Any) -> np.ndarray:
    """What diffusers' pipeline draws, by itself: [n, 3] texels that the mesh covers."""
    controlnet = ControlNetModel.from_pretrained(net / "controlnet")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(base, controlnet=controlnet, safety_checker=None)
    pipeline.scheduler = quick_sampler(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    parts = read_parts(mesh)
    corners = np.concatenate([part.vertices[part.faces] for part in parts])
    values = position_map(np.concatenate([part.triangles() for part in parts]), corners, (64, 64))
    image = pipeline(
        "a crate",
        image=torch.from_numpy(values).permute(2, 0, 1)[None],
        latents=initial_noise([torch.Generator().manual_seed(seed)], (4, 8, 8)),
        num_inference_steps=3,
        output_type="np",
        **arguments,
    ).images[0]
    return np.round(image * 255).astype(np.uint8)[coverage_mask(read_target(mesh).triangles, (64, 64))]


def test_a_stock_pipeline_draws_the_same(base: Path, net: Path, four_squares_obj: Path, draw: Any) -> None:
    (made,) = draw(layout=str(net), seed=5, seams="keep")
    np.testing.assert_array_equal(made, stock(base, net, four_squares_obj, 5))
    (made,) = draw(layout=str(net), seed=5, seams="keep", layout_scale=0.7, layout_start=0.3, layout_end=0.9)
    between = {"controlnet_conditioning_scale": 0.7, "control_guidance_start": 0.3, "control_guidance_end": 0.9}
    np.testing.assert_array_equal(made, stock(base, net, four_squares_obj, 5, **between))


def test_at_scale_0_nothing_changes_and_batches_change_nothing(net: Path, draw: Any) -> None:
    plain = draw(seed=[1, 2])
    np.testing.assert_array_equal(draw(layout=str(net), layout_scale=0.0, seed=[1, 2]), plain)
    together = draw(layout=str(net), seed=[1, 2])
    one_by_one = draw(layout=str(net), seed=[1, 2], batch_size=1)
    assert np.abs(np.int16(together) - np.int16(one_by_one)).max() <= 1
    assert all((one != other).any() for one, other in zip(together, plain, strict=True))


def test_redrawing_an_atlas_hears_the_net_as_well(net: Path, draw: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "old.png")
    old = {"init_image": tmp_path / "old.png", "strength": 0.7}
    plain = draw(**old)
    np.testing.assert_array_equal(draw(**old, layout=str(net), layout_scale=0.0), plain)
    assert (draw(**old, layout=str(net))[0] != plain[0]).any()


def test_a_lora_brings_the_net_that_it_was_trained_under(
    net: Path, factors: Any, draw: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors(1.0).items()}
    said = {"net": str(net), "fingerprint": str(describe_maps(read_layout_net(net))["fingerprint"])}
    save_file(tensors, file, metadata={"format": "pt"} | {f"texdiff.layout.{key}": said[key] for key in said})
    own, named, without = (draw(lora=file, layout=layout)[0] for layout in (None, str(net), "none"))
    lines = capsys.readouterr().out
    assert f"layout net {net}: position map\n" in lines
    assert "warning" not in lines
    np.testing.assert_array_equal(own, named)
    assert (own != without).any()

    (atlas,) = generate(model="nano", prompt="a", output=tmp_path / "a.png", lora=file, num_inference_steps=1)
    assert atlas.is_file()
    assert "was trained under the layout net" in capsys.readouterr().out

    # A net of others may say nothing of its maps: then the LoRA does.
    maps = {"texdiff.layout.kind": "mask", "texdiff.layout.scale": "0.9"}
    save_file(load_file(file), file, metadata={"format": "pt"} | maps)
    assert (draw(lora=file, layout=str(net))[0] != own).any()
    assert f"layout net {net}: mask map\n" in capsys.readouterr().out

    save_file(load_file(file), file, metadata={"format": "pt", "texdiff.layout.net": "/gone"})
    with pytest.raises(InputError, match=r"under the layout net /gone, which is not there; give --layout, or"):
        draw(lora=file)
    with pytest.raises(InputError, match=r"net\d*: a layout net, not a LoRA; give it as --layout"):
        draw(lora=net)

    save_file(load_file(file), file, metadata={"format": "pt", "texdiff.layout.fingerprint": "0" * 32})
    draw(lora=file, layout=str(net))
    assert "warning: it is not the net that the LoRA" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layout": "/nowhere"}, "--layout /nowhere: no layout net there"),
        ({"layout": "/nowhere", "mesh": None}, "--layout /nowhere: needs --mesh"),
        ({"layout_start": 0.5, "layout_end": 0.5}, "--layout_start must be at least 0 and below --layout_end"),
        ({"layout_scale": float("inf")}, "--layout_scale must be a finite number"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments: dict[str, Any], said: str, draw: Any) -> None:
    with pytest.raises(InputError) as refused:
        draw(**arguments)
    assert str(refused.value).startswith(said)
    assert len(str(refused.value).splitlines()) == 1
