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
from texdiff.errors import InputError
from texdiff.evaluation.compare import _choose
from texdiff.evaluation.metrics.seams import seam_error
from texdiff.inference.target import finish_texture, read_target
from texdiff.uv.seams.edges import MeshEdges

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
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["base", "with", "the", "LoRA"]
    figures = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in said[1:-1]}
    assert figures["held-out masked loss"] == ["0.5000", "0.2500"]
    generate = {"model": str(base), "prompt": "a crate", "mesh": four_squares_obj, "guidance_scale": 1.0}
    (kept,) = cli.generate(**generate, output=tmp_path / "kept.png", seams="keep")
    target = read_target(four_squares_obj)
    drawn = finish_texture(target, np.asarray(Image.open(kept).convert("RGB")))
    error = seam_error(MeshEdges(four_squares_obj, list(target.parts)), drawn).metrics()["mean"]
    assert float(figures["seams, CIEDE2000"][0]) < 0.9 * error  # closed, as generate closes them
    with Image.open(tmp_path / "made/x.webp") as turning:
        assert (turning.n_frames, turning.size) == (32, (2 * 256, 256))
        first, later = (np.asarray(turning.convert("RGB")) for _ in map(turning.seek, (0, 8)))
        assert (first != later).any()
        assert (first[:, :256] != first[:, 256:]).any()
    shown = np.asarray(Image.open(tmp_path / "made/x.png").convert("RGB"))
    views = shown[2 * 28 :]  # below the heads and the prompt
    plain, tuned, own = np.split(views, 3, axis=1)
    assert plain.shape[1] == 2 * plain.shape[0]
    assert (plain != tuned).any()
    assert (tuned != own).any()


def test_any_folder_of_meshes_has_prompts(
    four_squares_obj: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a dataset: captions first, in their order, then a .txt beside the mesh or its name."""
    meshes = four_squares_obj.parent
    text = four_squares_obj.read_text()
    for name in ("aRedCup", "b", "c"):
        (meshes / f"{name}.obj").write_text(text)
    (meshes / "b.txt").write_text("a blue bowl\n")
    (meshes / "broken.obj").write_text("v 0 0\n")
    chosen, targets = _choose(meshes, 9)
    assert [(mesh.name, prompt) for mesh, prompt in chosen] == [
        *(("aRedCup.obj", "a red cup"), ("b.obj", "a blue bowl"), ("c.obj", "c"), ("squares.obj", "squares")),
    ]
    assert [target.path for target in targets] == [mesh for mesh, _ in chosen]
    assert capsys.readouterr().out.startswith(f"left out: {meshes / 'broken.obj'}: ")
    (meshes / "captions.csv").write_text("mesh;text\nsquares.obj;four squares\n")
    assert [prompt for _, prompt in _choose(meshes, 2)[0]] == ["four squares", "a red cup"]
    assert _choose(four_squares_obj, 4)[0] == [(four_squares_obj, "four squares")]
    with pytest.raises(InputError, match="no such file or folder"):
        _choose(tmp_path / "owner" / "gone", 1)


@pytest.mark.parametrize(
    ("output", "more", "says"),
    [("x", [], "must end in .png or .jpg"), ("x.webp", [], "must end in"), ("x.png", ["--count", "0"], "at least 1")],
)
def test_numbers_and_names_are_checked_before_anything_is_drawn(
    output: str, more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(tmp_path), str(tmp_path), "--output", str(tmp_path / output), *more]) == 2
    assert says in capsys.readouterr().err


def test_what_is_not_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(tmp_path), str(tmp_path), "--output", str(tmp_path / "x.png")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "not a run" in said
    assert not list(tmp_path.iterdir())
