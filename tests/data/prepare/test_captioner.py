"""`--captioner` through transformers' own pipeline, on a tiny model with random weights made here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from texdiff.data.prepare import prepare_dataset
from texdiff.errors import InputError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["red", "blue", "wood", "stone", "metal", "cloth", "old", "new"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP captioner of true classes, whose vocabulary is WORDS."""
    folder = tmp_path_factory.mktemp("blip")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(vocabulary)})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config=sizes | ids | {"vocab_size": len(vocabulary), "encoder_hidden_size": 16, "is_decoder": True},
        vision_config=sizes | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_only_textures_without_a_caption_are_captioned(
    blip: Path, tmp_path: Path, write_mesh: Callable, draw: Callable
) -> None:
    write_mesh(tmp_path / "in" / "named.glb", draw(1))
    write_mesh(tmp_path / "in" / "told.glb", draw(2))
    (tmp_path / "in" / "told.txt").write_text("a told caption")
    texts = []
    for output in ("once", "again"):
        prepare_dataset(
            [str(tmp_path / "in")],
            tmp_path / output,
            workers=1,
            validation_fraction=0,
            captioner=str(blip),
            caption_template="{caption}!",
        )
        lines = (tmp_path / output / "train" / "metadata.jsonl").read_text().splitlines()
        texts.append({row["source"]: row["text"] for row in map(json.loads, lines)})
    assert texts[0] == texts[1]
    assert texts[0]["told.glb"] == "a told caption!"
    words = texts[0]["named.glb"].removesuffix("!").split()
    assert words
    assert set(words) <= {*WORDS, *(f"[{name}]" for name in ("unk", "mask", "cls", "dec"))}


def test_what_is_no_captioner_is_one_line(tmp_path: Path, write_mesh: Callable, draw: Callable) -> None:
    write_mesh(tmp_path / "in" / "a.glb", draw(1))
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="cannot be loaded as an image-text-to-text model") as error:
        prepare_dataset([str(tmp_path / "in")], tmp_path / "out", captioner=str(tmp_path / "model"))
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "model"}
