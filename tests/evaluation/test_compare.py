"""`texdiff compare`: base and LoRA side by side on meshes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from texdiff import cli
from texdiff.evaluation.compare import _views
from texdiff.inference.target import finish_texture, read_seams, read_target
from texdiff.render.renderer import MeshRenderer

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def test_base_lora_and_own_texture_in_a_row(
    base: Path, factors: Any, four_squares_obj: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, meshes = tmp_path / "run", four_squares_obj.parent
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"pretrained_model_name_or_path": str(base)}}))
    lines = [{"step": 0, "validation_loss": 0.5}, {"step": 9, "loss": 1.0}, {"step": 9, "validation_loss": 0.25}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tensors = {f"{LAYER}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors(3.0).items()}
    save_file(tensors, run / "pytorch_lora_weights.safetensors")
    rows = [{"mesh": four_squares_obj.name, "text": "a crate"}, {"mesh": "none.glb", "text": "not shown"}]
    (meshes / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["compare", str(run), str(meshes), "--output", str(tmp_path / "made/x.png"), "--guidance_scale", "1"]
    assert cli.main([*arguments, "--count", "1"]) == 0
    assert "held-out masked loss: 0.5000 before, 0.2500 after 9 steps" in capsys.readouterr().out
    shown = np.asarray(Image.open(tmp_path / "made/x.png").convert("RGB"))
    views = shown[3 * 28 :]  # below the losses, the heads and the prompt
    plain, tuned, own = np.split(views, 3, axis=1)
    assert plain.shape[1] == 2 * plain.shape[0]
    assert (plain != tuned).any()
    assert (tuned != own).any()


def test_what_is_not_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "not a run" in said
    assert not list(tmp_path.iterdir())


def test_its_views_have_their_seams_closed_as_generates_have(four_squares_obj: Path) -> None:
    texture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    target = read_target(four_squares_obj)
    (shown,) = _views(four_squares_obj, [texture])
    renderer = MeshRenderer(four_squares_obj, ((35.0, 20.0), (215.0, 20.0)))
    kept, closed = (
        np.hstack([*renderer.draw(finish_texture(target, texture, seams), target.parts)])
        for seams in (None, read_seams(target))
    )
    np.testing.assert_array_equal(shown, closed)
    assert (kept != closed).any()
