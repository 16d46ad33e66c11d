"""Features and the perceptual distance: blind to the void, of any vision model, and wrong numbers are refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from texdiff.errors import InputError
from texdiff.evaluation.metrics.clip_score import ClipScore
from texdiff.evaluation.metrics.features import (
    EfficientNetLite0,
    Extractor,
    features,
    load_extractor,
    perceptual_distance,
    to_tensor,
)

VOCABULARY = {"<|startoftext|>": 0, "<|endoftext|>": 1, "r": 2, "e": 3, "d</w>": 4, "b": 5, "x</w>": 6}


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return load_extractor()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of true classes with random weights, on pictures of 32 x 32."""
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 7, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    ).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=VOCABULARY, merges=[]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "image_mean": [0.4, 0.5, 0.6],'
        ' "image_std": [0.2, 0.3, 0.4], "crop_size": {"height": 32, "width": 32}}'
    )
    return folder


def textures(n: int = 3, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Coarse patterns, and masks of one island each."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (n, 8, 8, 3), np.uint8).repeat(side // 8, 1).repeat(side // 8, 2)
    masks = np.zeros((n, side, side), bool)
    masks[:, 10:50, 14:40] = True
    return pictures, masks


def test_the_void_does_not_count(lite0: Extractor) -> None:
    pictures, masks = textures()
    other = np.where(masks[..., None], pictures, np.uint8(7))
    found = features(pictures, masks, lite0)
    assert found.shape == (3, 1280)
    np.testing.assert_array_equal(found, features(other, masks, lite0))
    assert np.abs(found - features(pictures, None, lite0)).max() > 0.1
    noisy = np.clip(pictures.astype(int) + np.random.default_rng(1).integers(-40, 40, pictures.shape), 0, 255)
    noisy = noisy.astype(np.uint8)
    distance = perceptual_distance(noisy, pictures, masks, lite0)
    noisy[~masks] = 255
    np.testing.assert_array_equal(distance, perceptual_distance(noisy, other, masks, lite0))


def test_perceptual_distance_grows_with_what_is_done(lite0: Extractor) -> None:
    pictures, masks = textures()
    assert perceptual_distance(pictures, pictures, masks, lite0) == pytest.approx([0, 0, 0], abs=1e-6)
    noise = np.random.default_rng(1).normal(size=pictures.shape)
    worse = [
        perceptual_distance(np.clip(pictures + amount * noise, 0, 255).astype(np.uint8), pictures, masks, lite0)
        for amount in (4, 16, 64)
    ]
    assert (np.diff(worse, axis=0) > 0).all()
    assert (worse[0] > 0).all()


def test_batches_do_not_matter(lite0: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, masks = textures()
    whole = features(pictures, masks, lite0)
    monkeypatch.setattr("texdiff.evaluation.metrics.features._BATCH", 2)
    np.testing.assert_allclose(features(pictures, masks, lite0), whole, atol=1e-5)


def test_its_features_are_what_the_packages_classifier_stands_on(lite0: Extractor) -> None:
    assert isinstance(lite0, EfficientNetLite0)
    pictures = to_tensor(textures(1, side=224)[0])
    pooled, maps = lite0(pictures)
    assert [tuple(one.shape[2:]) for one in maps] == [(112, 112), (56, 56), (28, 28), (14, 14), (7, 7)]
    with torch.inference_mode():
        torch.testing.assert_close(lite0._net._fc(pooled), lite0._net(lite0.normalised(pictures)))
    torch.testing.assert_close(lite0.normalised(pictures), (pictures * 255 - 127) / 128)  # as it was trained


def test_uint8_and_floats_are_not_taken_for_each_other(lite0: Extractor) -> None:
    pictures, masks = textures()
    for bad in (pictures / 255, (pictures / 255).astype(np.float32), pictures.astype(np.int64)):
        with pytest.raises(ValueError, match="use uint8"):
            features(bad, masks, lite0)
        with pytest.raises(ValueError, match="use uint8"):
            perceptual_distance(bad, pictures, masks, lite0)
        with pytest.raises(ValueError, match="use uint8"):
            perceptual_distance(pictures, bad, masks, lite0)
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    for wrong in (tensor, tensor.float(), tensor.float() / 127.5 - 1):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            lite0(wrong)


def test_any_vision_model_of_transformers(clip: Path, tmp_path: Path) -> None:
    pictures, masks = textures()
    network = load_extractor(str(clip))
    assert network.side == 32
    assert features(pictures, masks, network).shape == (3, 16)
    assert perceptual_distance(pictures[::-1], pictures, masks, network).shape == (3,)
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**small)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    resnet = load_extractor(str(tmp_path))
    assert features(pictures, masks, resnet).shape == (3, 16)
    assert perceptual_distance(pictures, pictures, masks, resnet) == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_clip_score_is_the_cosine_of_clips_two_towers(clip: Path) -> None:
    pictures, _ = textures(2, side=32)  # of its own size, so that nothing is resized
    prompts = ["red", "bx"]
    model, tokenizer = transformers.CLIPModel.from_pretrained(clip), transformers.CLIPTokenizer.from_pretrained(clip)
    pixels = (pictures.transpose(0, 3, 1, 2) / 255 - np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1)) / np.array(
        [0.2, 0.3, 0.4]
    ).reshape(3, 1, 1)
    cosines = []
    with torch.no_grad():
        for pixel, prompt in zip(pixels, prompts, strict=True):
            vision = model.vision_model(torch.tensor(pixel[None], dtype=torch.float32)).pooler_output
            words = model.text_model(**tokenizer([prompt], return_tensors="pt")).pooler_output
            image, text = model.visual_projection(vision)[0], model.text_projection(words)[0]
            cosines.append(float(image @ text / image.norm() / text.norm()))
    score = ClipScore(str(clip))
    assert score(pictures, prompts) == pytest.approx(np.mean(cosines), abs=1e-5)
    assert score(pictures, prompts[::-1]) != pytest.approx(np.mean(cosines), abs=1e-4)


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    with pytest.raises(InputError, match=r"--features .*none: cannot be loaded as a vision model"):
        load_extractor(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"--clip .*none: cannot be loaded"):
        ClipScore(str(tmp_path / "none"))
    small = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**small)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64}')
    with pytest.raises(InputError, match=r"--clip .*: not a CLIP"):
        ClipScore(str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match=r"pip install 'texdiff\[metrics\]'"):
        load_extractor()


def test_networks_and_what_they_look_at_go_to_the_device(clip: Path) -> None:
    """On `meta`, a device that every machine has and that computes shapes alone."""
    images, _ = textures()
    for name in ("efficientnet-lite0", str(clip)):
        network = load_extractor(name, "meta")
        pooled, maps = network(to_tensor(images))
        assert {one.device.type for one in (pooled, *maps)} == {"meta"}
    with pytest.raises(RuntimeError, match="meta tensors"):  # only at the end, where the number is asked for
        ClipScore(str(clip), "meta")(images, ["red"] * 3)
