"""Long prompts and clip_skip, against an encoder written out by hand, diffusers' own, and attention itself."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from texdiff.errors import InputError
from texdiff.models.family import Conditioning, load_family
from texdiff.models.prompts import PromptReading, read_prompts_as, reading_of, same_length

# diffusers' sampler hands a tensor to NumPy 2 in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

START, END = 49406, 49407
LONG = "a rusty barrel, worn paint, " * 20 + "red"  # 141 tokens
TEXTS = ["", "a crate", "crate " * 75, "crate " * 76, "crate " * 150, LONG, "𒀀" * 40]


@pytest.fixture(scope="module")
def nano():
    family = load_family("nano")
    family.move_encoders("cpu", "prompts")
    return family.base


def by_hand(encoder: Any, ids: list[int], layers_off: int = 0) -> np.ndarray:
    """CLIP's text transformer in float64: [77, D] of 77 tokens, from the layer before so many, normalised."""
    weights = {name.removeprefix("text_model."): t.double().numpy() for name, t in encoder.state_dict().items()}
    heads, count = encoder.config.num_attention_heads, encoder.config.num_hidden_layers

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        spread = np.sqrt(x.var(-1, keepdims=True) + encoder.config.layer_norm_eps)
        return (x - x.mean(-1, keepdims=True)) / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.token_embedding.weight"][ids] + weights["embeddings.position_embedding.weight"]
    for number in range(count - layers_off):
        layer = f"encoder.layers.{number}"
        y = norm(x, f"{layer}.layer_norm1")
        q, k, v = (
            linear(y, f"{layer}.self_attn.{part}_proj").reshape(77, heads, -1).transpose(1, 0, 2) for part in "qkv"
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        scores[:, np.triu(np.ones((77, 77), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(77, -1), f"{layer}.self_attn.out_proj")
        y = linear(norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(y / (1 + np.exp(-1.702 * y)), f"{layer}.mlp.fc2")
    return norm(x, "final_layer_norm")


@pytest.mark.parametrize("skip", [None, 1])
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_chunks_are_encoded_one_by_one_each_between_its_own_marks(nano, chunks, skip) -> None:
    """By brute force: 75 tokens at a time, a start before them, ends after them up to 77, and no longer than needed."""
    assert nano.text_encoder.config.hidden_act == "quick_gelu"
    found = PromptReading(chunks=chunks, clip_skip=skip).encode(nano.tokenizer, nano.text_encoder, TEXTS)
    for text, rows in zip(TEXTS, found, strict=True):
        tokens = nano.tokenizer(text, verbose=False).input_ids[1:-1]
        expected = []
        for chunk in range(chunks):
            part = tokens[75 * chunk : 75 * (chunk + 1)]
            if part or chunk == 0:
                ids = [START, *part] + [END] * (76 - len(part))
                expected.append(by_hand(nano.text_encoder, ids, skip or 0))
        assert rows.shape[0] == 77 * len(expected)
        np.testing.assert_allclose(rows, np.concatenate(expected), rtol=1e-4, atol=2e-5)


def test_one_chunk_is_what_the_tokenizer_itself_pads_and_cuts(nano) -> None:
    """Bit by bit, as it was before prompts had chunks."""
    tokens = nano.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        before = nano.text_encoder(tokens.input_ids)[0]
    assert torch.stack(PromptReading().encode(nano.tokenizer, nano.text_encoder, TEXTS)).equal(before)


def test_a_pad_token_of_its_own_follows_the_first_end(nano) -> None:
    """As Stable Diffusion 2's tokenizer has it."""
    other = copy.deepcopy(nano.tokenizer)
    other.pad_token = "!"
    seen = []

    class Encoder(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor]:
            seen.append(tokens)
            return (tokens[..., None].float(),)

    PromptReading(chunks=2).encode(other, Encoder(), ["crate " * 76])
    padded = other("crate", padding="max_length", max_length=77).input_ids
    assert seen[0].tolist()[1] == padded == [START, padded[1], END] + [0] * 74


@pytest.mark.parametrize("length", [77, 225])
def test_clip_skip_is_diffusers(nano, length) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(nano.source, safety_checker=None)
    pipeline.text_encoder.__dict__.setdefault("text_model", pipeline.text_encoder)  # where older transformers have it
    texts = ["a rusty crate", "a barrel"]
    theirs, _ = pipeline.encode_prompt(texts, "cpu", 1, False, clip_skip=1)
    plain, _ = pipeline.encode_prompt(texts, "cpu", 1, False)
    family = load_family("nano", max_token_length=length, clip_skip=1)
    family.move_encoders("cpu", "prompts")
    torch.testing.assert_close(family.encode_prompts(texts)["text"], theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(plain, theirs, atol=1e-2)


def test_a_prompt_repeated_as_it_is_gives_the_same_prediction(nano) -> None:
    """What lets prompts of one, two and three chunks share a batch: each as if it were alone."""
    family = load_family("nano", max_token_length=225)
    family.move_encoders("cpu", "prompts")
    texts = ["a crate", LONG, LONG * 2, ""]
    together = family.encode_prompts(texts)["text"]
    assert together.shape[:2] == (4, 77 * 6)
    noisy, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 400, 700, 900])
    with torch.no_grad():
        predicted = family.predict(family.denoiser, noisy, t, Conditioning(prompt={"text": together}))
        for row, text in enumerate(texts):
            alone = family.encode_prompts([text])["text"]
            assert alone.shape[1] == 77 * (1, 2, 3, 1)[row]
            one = family.predict(family.denoiser, noisy[row : row + 1], t[row], Conditioning(prompt={"text": alone}))
            torch.testing.assert_close(predicted[row : row + 1], one, rtol=1e-4, atol=1e-5)


def test_lengths_become_one() -> None:
    parts = [torch.randn(n, 3) for n in (2, 4, 6)]
    made = same_length(parts)
    assert [len(part) for part in made] == [12, 12, 12]
    for part, long in zip(parts, made, strict=True):
        assert all(long[i : i + len(part)].equal(part) for i in range(0, 12, len(part)))


def test_a_pipeline_reads_prompts_and_negative_ones_so(pipeline) -> None:
    """diffusers would cut both, and skip no layer for the negative one."""
    negative = "blurry, flat, grey, " * 10
    plain = pipeline.encode_prompt(["a crate", LONG], "cpu", 1, True, [negative] * 2)
    read_prompts_as(pipeline, PromptReading())
    assert reading_of(pipeline) == PromptReading()
    after = pipeline.encode_prompt(["a crate", LONG], "cpu", 1, True, [negative] * 2)
    assert all(a.equal(b) for a, b in zip(plain, after, strict=True))
    reading = PromptReading(chunks=2, clip_skip=1)
    read_prompts_as(pipeline, reading)
    assert reading_of(pipeline) == reading_of(copy.deepcopy(pipeline)) == reading
    found = pipeline.encode_prompt(["a crate", LONG], "cpu", 2, True, [negative] * 2)
    parts = reading.encode(pipeline.tokenizer, pipeline.text_encoder, ["a crate", "a crate", LONG, LONG])
    assert all(a.equal(b) for a, b in zip(found[0], same_length(parts), strict=True))
    (other,) = reading.encode(pipeline.tokenizer, pipeline.text_encoder, [negative])
    assert len(other) == 77
    assert all(torch.allclose(row, other.repeat(2, 1), atol=1e-5) for row in found[1])
    assert found[1].shape == found[0].shape == (4, 154, other.shape[1])
    alone, nothing = pipeline.encode_prompt("a crate", "cpu", 1, False)
    assert alone.shape[:2] == (1, 77)
    assert nothing is None
    image = pipeline(LONG, num_inference_steps=1, output_type="np", generator=torch.manual_seed(0)).images
    other = pipeline(LONG + " blue", num_inference_steps=1, output_type="np", generator=torch.manual_seed(0)).images
    assert (image != other).any()


def test_an_encoder_must_have_a_layer_left(pipeline) -> None:
    layers = pipeline.text_encoder.config.num_hidden_layers
    said = f"model.clip_skip must be below {layers}, the layers of this base's text encoder \\(got {layers}\\)"
    with pytest.raises(InputError, match=said):
        read_prompts_as(pipeline, PromptReading(clip_skip=layers))
    with pytest.raises(InputError, match=r"model\.clip_skip must be below"):
        load_family("nano", clip_skip=99)


def test_what_is_cut_is_quoted(nano) -> None:
    reading = PromptReading()
    assert reading.left_out(nano.tokenizer, ["crate " * 75]) == []
    (line,) = reading.left_out(nano.tokenizer, ["short", "very " * 75 + "red wood"])
    assert line == '"very very very very very very ...": the base reads 75 tokens; "red wood" is left out'
    assert PromptReading(chunks=2).left_out(nano.tokenizer, ["very " * 75 + "red wood"]) == []
