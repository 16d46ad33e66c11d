"""Another trainer's folder as it is: checked, trained on, and the LoRA exported for the programs that its user has."""

import json
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from texdiff.training.run import Run

QUICK = ["--data.resolution", 64, "--run.train_batch_size", 2, "--run.max_train_steps", 4, "--lora.rank", 4]
QUICK += ["--lora.alpha", 2, "--run.report_to", "none", "--validation.num_images", 0]


def write_pair(image: Path, mask: Path, caption: str | None, grey: bool = False, ending: str = ".txt") -> None:
    """A smooth image of 96 px; its mask is a square, of which the upper half is grey."""
    for folder in (image.parent, mask.parent):
        folder.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(crc32(str(image).encode())).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((96, 96), Image.Resampling.BICUBIC).save(image)
    values = np.zeros((96, 96), np.uint8)
    values[10:80, 10:80] = 255
    if grey:
        values[10:45, 10:80] = 127
    Image.fromarray(values).save(mask)
    if caption:
        image.with_suffix(ending).write_text(caption)


def check_train_export(dataset: Path, run_program, tmp_path: Path) -> tuple[str, str]:
    """What checking and training say; the exported LoRA is kohya's layout with the strength that was asked for."""
    texdiff = [sys.executable, "-m", "texdiff.cli"]
    checked = run_program(*texdiff, "check", dataset)
    assert checked.returncode == 0, checked.stdout
    run = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    trained = run_program(*texdiff, "train", *run, *QUICK, OMP_NUM_THREADS="1")
    assert trained.returncode == 0, trained.stderr
    exported = run_program(*texdiff, "export", tmp_path / "run", "--output", tmp_path / "lora.safetensors")
    assert exported.returncode == 0, exported.stderr
    with safe_open(tmp_path / "lora.safetensors", "np") as file:
        names, metadata = list(file.keys()), file.metadata()
        assert {float(file.get_tensor(name)) for name in names if name.endswith(".alpha")} == {2.0}
        ups = [file.get_tensor(name) for name in names if name.endswith(".lora_up.weight")]
    assert len(names) == 3 * len(ups)
    assert all(name.startswith("lora_unet_") for name in names)
    assert all(np.abs(up).max() > 0 for up in ups)
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")
    return checked.stdout, trained.stdout


@pytest.mark.slow
def test_from_onetrainer(run_program, tmp_path):
    folder = tmp_path / "concepts"
    for number in range(4):
        place = folder / "wood" / f"w{number}"
        write_pair(Path(f"{place}.png"), Path(f"{place}-masklabel.png"), f"crate {number}\nbox", grey=number == 1)
    for number in range(2):
        place = folder / "metal" / f"m{number}"
        write_pair(Path(f"{place}.jpg"), Path(f"{place}-masklabel.png"), f"barrel {number}")
    checked, said = check_train_export(folder, run_program, tmp_path)
    assert "0 errors, 1 warnings in 6 textures" in checked
    assert "textures         6 to train on, 0 held out" in said
    assert "grey masks       1 of 6 are used as weights" in said
    masks = json.loads((tmp_path / "run/masks.json").read_text())
    assert masks["inverted"] == 0
    assert Run(tmp_path / "run").is_finished


@pytest.mark.slow
def test_from_kohya(run_program, tmp_path):
    """A .toml with repeats, a regularisation set and a grey mask."""
    for number in range(4):
        image, mask = (tmp_path / place / f"10_red cup/c{number}.png" for place in ("img", "masks"))
        write_pair(image, mask, f"red cup {number}" if number else None, grey=number == 0)
    for number in range(3):
        image, mask = (tmp_path / place / f"2_blue cup/d{number}.png" for place in ("img", "masks"))
        write_pair(image, mask, f"blue cup {number}", ending=".caption")
    for number in range(5):
        image, mask = (tmp_path / place / f"1_cup/r{number}.png" for place in ("reg", "reg_masks"))
        write_pair(image, mask, None)
    subset = "[[datasets.subsets]]\nimage_dir = '{}'\nconditioning_data_dir = '{}'\n{}\n"
    subsets = [
        ("img/10_red cup", "masks/10_red cup", "num_repeats = 10\nclass_tokens = 'red cup'"),
        ("img/2_blue cup", "masks/2_blue cup", "num_repeats = 2\ncaption_extension = '.caption'"),
        ("reg/1_cup", "reg_masks/1_cup", "is_reg = true\nclass_tokens = 'cup'"),
    ]
    written = "[general]\nresolution = 64\n[[datasets]]\n" + "".join(subset.format(*each) for each in subsets)
    (tmp_path / "cups.toml").write_text(written)
    checked, said = check_train_export(tmp_path / "cups.toml", run_program, tmp_path)
    assert "0 errors" in checked
    assert "textures         12 to train on, 0 held out" in said
    assert "grey masks       1 of 12 are used as weights" in said
    assert said.count("50.0% of visits") == 2
