"""Captions of several chunks and clip_skip, from the dataset to what `texdiff generate` makes of the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from texdiff import cli
from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.cache.keys import fingerprint
from texdiff.data.records import read_records
from texdiff.evaluation.sampler import EvaluationSampler
from texdiff.inference.sampler import load_pipeline, sample
from texdiff.models.family import load_family
from texdiff.models.lora_files.load import add_lora
from texdiff.models.prompts import PromptReading, reading_of
from texdiff.training.parallel import Parallel

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LONG = "a rusty barrel, worn paint, " * 12 + "in red"  # 86 tokens, the last two beyond the first chunk
LONGER = LONG * 2  # of three chunks
TEXTS = ["a crate", LONG, LONGER]


@pytest.fixture(scope="module")
def parallel():
    return Parallel(cpu=True)


@pytest.fixture(scope="module")
def captioned(make_dataset, tmp_path_factory) -> Path:
    """Each texture has the three captions."""
    return make_dataset(tmp_path_factory.mktemp("captioned") / "set", [0.5, 0.4, 0.6], held_out=1, text=TEXTS)


def encoded(folder: Path, parallel: Parallel, family, cache_dir: Path, cache="disk", length=225):
    data = DataConfig(
        dataset=str(folder), resolution=64, cache=cache, cache_dir=str(cache_dir), max_token_length=length
    )
    return encode_dataset(data, MaskConfig(), family, read_records(str(folder), "train"), [], parallel)[0]


@pytest.mark.parametrize("cache", ["disk", "memory", "off"])
def test_batches_of_mixed_lengths_and_dropped_captions(cache, captioned, parallel, tmp_path) -> None:
    """Whatever is in a batch, prompts have one length, and hold their own rows again and again."""
    family = load_family("nano", max_token_length=225, clip_skip=1)
    textures = encoded(captioned, parallel, family, tmp_path, cache)
    # The first number picks among three captions, the second drops it.
    chances = [[0.0, 0.9], [0.5, 0.9], [0.9, 0.9], [0.9, 0.0]]
    batch = textures.batch([0, 1, 0, 1], torch.tensor(chances), caption_dropout=0.1)
    assert batch.prompt["text"].shape[:2] == (4, 77 * 6)
    family.move_encoders("cpu", "prompts")
    for row, text, rows in zip(batch.prompt["text"], [*TEXTS, ""], (77, 154, 231, 77), strict=True):
        alone = family.encode_prompts([text])["text"][0]
        assert len(alone) == rows
        assert torch.equal(row, alone.repeat(77 * 6 // rows, 1))
    short = textures.batch([0], torch.tensor(chances[:1]))
    assert torch.equal(short.prompt["text"][0], batch.prompt["text"][0])


def test_the_cache_tells_ways_of_reading_apart_and_keeps_the_usual_ones_keys(captioned, parallel, tmp_path) -> None:
    usual = load_family("nano")
    encoder, *files = usual.encoder_content("prompts")
    assert encoder == fingerprint(usual.base.text_encoder)
    assert files == [path.read_bytes() for path in usual.base.files("tokenizer")]
    contents = {usual.encoder_content("prompts")}
    states = {usual.encoder_state("prompts")}
    for settings in ({"clip_skip": 1}, {"max_token_length": 150}, {"max_token_length": 225}):
        family = load_family("nano", **settings)
        contents.add(family.encoder_content("prompts"))
        states.add(family.encoder_state("prompts"))
        assert family.encoder_content("images") == usual.encoder_content("images")
    assert len(contents) == len(states) == 4
    plain = encoded(captioned, parallel, usual, tmp_path, length=77).batch([0]).prompt["text"]
    skipped = encoded(captioned, parallel, load_family("nano", clip_skip=1), tmp_path, length=77)
    assert not torch.allclose(skipped.batch([0]).prompt["text"], plain, atol=1e-2)


def test_an_evaluation_reads_as_the_run_did(captioned) -> None:
    made = {}
    for length in (77, 150):
        sampler = EvaluationSampler(load_family("nano", max_token_length=length), 64, 2, 7.5, seed=0)
        grey = np.full((2, 64, 64, 3), 128, np.uint8)
        texts = [LONG, LONG.removesuffix("in red") + "blue"]  # the first chunk of both is the same
        for kind, images in (("new", sampler.generate(texts, "")), ("old", sampler.reconstruct(grey, texts, ""))):
            made[kind, length] = images
    read = [load_family("nano").base.tokenizer(text, truncation=True, max_length=77).input_ids for text in texts]
    assert read[0] == read[1]
    for kind in ("new", "old"):
        assert (made[kind, 77] != made[kind, 150]).any()


def test_a_run_and_what_is_sampled_with_it(captioned, base, train, tmp_path) -> None:
    """The LoRA's metadata says how prompts are read; so does a full run's config.yaml."""
    settings = ["--data.dataset", captioned, "--data.max_token_length", 150, "--model.clip_skip", 1]
    settings += ["--run.max_train_steps", 1, "--run.train_batch_size", 2, "--validation.prompts", f'["{LONGER}", "a"]']
    lora, full = tmp_path / "lora", tmp_path / "full"
    done = train(*settings, "--run.output_dir", lora)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("captions")]
    assert "3 of 9 captions are longer than the 150 tokens" in said[0]
    begins = 'captions         warning: validation.prompts: "a rusty barrel, worn paint, a ...": the base reads 150 tok'
    assert said[1].startswith(begins)
    assert len(said) == 2
    with safe_open(lora / "pytorch_lora_weights.safetensors", "pt") as file:
        known = file.metadata()
    assert (known["ss_clip_skip"], known["ss_max_token_length"]) == ("2", "150")
    shutil.copytree(base, full)  # what a full run leaves is a pipeline beside its config.yaml
    shutil.copy(lora / "config.yaml", full)
    expected = PromptReading(chunks=2, clip_skip=1)
    pipeline = load_pipeline("nano")
    assert reading_of(pipeline) == PromptReading()
    add_lora(pipeline, lora)
    assert reading_of(pipeline) == reading_of(load_pipeline(str(full))) == expected
    kohya = tmp_path / "kohya.safetensors"
    assert cli.main(["export", str(lora), "--output", str(kohya)]) == 0
    again = load_pipeline("nano")
    add_lora(again, kohya)
    assert reading_of(again) == expected


def test_generate_reads_as_in_training_and_says_what_is_left_out(captioned, base, factors, tmp_path, capsys) -> None:
    from safetensors.torch import save_file

    layer = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_{name}.weight": tensor.contiguous() for name, tensor in factors(1.0).items()}
    file = tmp_path / "long.safetensors"
    save_file(tensors, file, {"ss_max_token_length": "150", "ss_clip_skip": "2"})
    common = ["generate", "--model", str(base), "--num_inference_steps", "2"]
    output = tmp_path / "a.png"
    assert cli.main([*common, "--lora", str(file), "--prompt", LONG, "--output", str(output)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == ["prompts are read as in training: up to 150 tokens, clip_skip 1", f"wrote {output}"]
    pipeline = load_pipeline(str(base))
    add_lora(pipeline, file)
    assert np.array_equal(np.asarray(Image.open(output)), sample(pipeline, LONG, 0, 2, 7.5))
    img2img = tmp_path / "b.png"
    arguments = ["--lora", str(file), "--output", str(img2img), "--init_image", str(output), "--strength", "1.0"]
    made = []
    for prompt in (LONG, LONG.removesuffix("red") + "blue"):  # the difference is in the second chunk
        assert cli.main([*common, *arguments, "--prompt", prompt]) == 0
        made.append(np.asarray(Image.open(img2img)))
    assert (made[0] != made[1]).any()
    capsys.readouterr()
    assert cli.main([*common, "--prompt", LONG, "--output", str(output)]) == 0
    assert f'"{LONG[:30]}...": the base reads 75 tokens; "' in capsys.readouterr().out.splitlines()[0]


def test_a_file_of_that_name_of_another_program_is_not_ours(base, tmp_path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    for text in ("data: [1", "just: this", "data: {max_token_length: 150}\nmodel: 3"):
        (folder / "config.yaml").write_text(text)
        assert reading_of(load_pipeline(str(folder))) == PromptReading()
