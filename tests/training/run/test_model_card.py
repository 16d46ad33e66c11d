"""The model card: the hub's own reader takes it, whatever stands in prompts and names."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from texdiff.config import DataConfig, ModelConfig, TrainingConfig
from texdiff.training.run import Run
from texdiff.training.run.model_card import _layout, plain, write_card

NASTY = 'a "red" chair: | `x` <b>${1}</b> it\'s # 50% \\ ```\n--- 椅子'


def make_run(folder: Path, licenses: dict[str, int], **model: Any) -> Path:
    """A run's folder as a training leaves it, as far as the card reads it."""
    config = TrainingConfig(data=DataConfig(dataset="/home/me/set"), model=ModelConfig(**model))
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml(), "utf-8")
    dataset = {"name": "set", "textures": 24, "held_out": 4, "coverage": 0.431, "licenses": licenses}
    (folder / "about.json").write_text(json.dumps({"dataset": dataset, "machine": {}}))
    lines = [
        {"step": 0, "samples_seen": 0, "validation_loss": 0.31356, "validation_error_border": 0.41},
        {"step": 50, "samples_seen": 200, "loss": 0.2},
        {"step": 100, "samples_seen": 400, "validation_loss": 0.15004, "validation_error_border": 0.22},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = []
    for number, prompt in enumerate(["plain prompt", NASTY]):
        rows.append({"prompt": prompt, "file": f"{number:02d}-x.png", "mask": "meshes/00.png", "mesh": None})
        for step in ("step-00000000", "step-00000100"):
            (folder / "samples" / step).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(folder / "samples" / step / f"{number:02d}-x.png")
    (folder / "samples/samples.json").write_text(json.dumps(rows))
    return folder


def test_the_card_of_a_lora(tmp_path: Path) -> None:
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    run = make_run(tmp_path / "run", {"CC0-1.0": 24}, pretrained_model_name_or_path=base)
    write_card(Run(run))
    card = ModelCard.load(run / "README.md")
    said = card.data.to_dict()
    assert said["base_model"] == base
    assert said["base_model_relation"] == "adapter"
    assert said["library_name"] == "diffusers"
    assert said["pipeline_tag"] == "text-to-image"
    assert said["license"] == "cc0-1.0"
    assert {"lora", "stable-diffusion", "text-to-image"} <= set(said["tags"])
    assert said["instance_prompt"] == "plain prompt"
    assert [one["text"] for one in said["widget"]] == ["plain prompt", NASTY]
    assert all((run / one["output"]["url"]).is_file() for one in said["widget"])
    assert "step-00000100" in said["widget"][0]["output"]["url"]
    assert "| validation loss | 0.3136 | 0.1500 |" in card.text
    assert "| validation error border | 0.4100 | 0.2200 |" in card.text
    assert "| CC0-1.0 | 24 |" in card.text
    assert f'pipe = DiffusionPipeline.from_pretrained("{base}")' in card.text
    assert "/home/me" not in card.content
    assert len(card.text.split("```")) == 5  # two blocks of code, and no third that a prompt began
    rows = [line for line in card.text.splitlines() if line.startswith("|")]
    assert "<b>" not in "".join(rows)


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        ({"CC-BY-4.0": 3}, {"license": "cc-by-4.0"}),
        ({"CC-BY-4.0": 3, "CC0-1.0": 1}, {"license": "other", "license_name": "cc-by-4.0-and-cc0-1.0"}),
        ({"Ask: me!": 1}, {"license": "other", "license_name": "ask-me"}),
        ({}, {"license": "other", "license_name": "unknown"}),
    ],
)
def test_the_licence_is_the_datas(tmp_path: Path, licenses: dict[str, int], expected: dict[str, str]) -> None:
    write_card(Run(make_run(tmp_path / "run", licenses)))
    said = ModelCard.load(tmp_path / "run/README.md").data.to_dict()
    assert {key: said.get(key) for key in expected} == expected


def test_void_on_the_surface_is_on_the_card(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {})
    write_card(Run(run))
    assert "Void on the surface" not in (run / "README.md").read_text("utf-8")
    found = [{"void_on_surface": share, "void_on_surface_real": 0.0412} for share in (0.012, 0.3971)]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    lines = [line | void for line, void in zip(lines, (found[0], {}, found[1]), strict=True)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_card(Run(run))
    card = (run / "README.md").read_text("utf-8")
    assert "Void on the surface: 39.7% of the covered texels" in card
    assert "(4.1% of the real textures; 1.2% before the first step)." in card
    assert "| void" not in card


def test_a_full_fine_tune_and_a_base_on_disk(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {}, pretrained_model_name_or_path="/home/me/bases/mine", train="full")
    (run / "metrics.jsonl").unlink()
    (run / "samples/samples.json").unlink()
    write_card(Run(run))
    card = ModelCard.load(run / "README.md")
    assert card.data.to_dict()["base_model"] == "mine"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert "lora" not in card.data.to_dict()["tags"]
    assert "load_lora_weights" not in card.text
    assert "/home/me" not in card.content


def test_plain_text_stays_text() -> None:
    assert plain("a *b* | [c](d)\n<e>") == "a \\*b\\* \\| \\[c\\](d) \\<e\\>"


def test_a_card_says_how_the_map_is_drawn(tmp_path: Path) -> None:
    config = {"layout": {"maps": "position", "init": "nano", "scale": None}, "data": {"resolution": 256}}
    config["model"] = {"train": "lora"}
    command = "`texdiff layout mesh.glb --kind position --size 256 --output map.png` draws it."
    assert command in _layout(Run(tmp_path), config)
    config["layout"]["scale"] = 0.6
    assert "texdiff layout" not in _layout(Run(tmp_path), config)
