"""Maps as image files: 16 bits in and out, others' 8 bits, other sizes, damage."""

import io

import numpy as np
import pytest
from PIL import Image

from texdiff.uv.image import ImageError
from texdiff.uv.layout.map_image import encode_map, read_map, sample_map, to_16_bits


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    found, at = {}, 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += length + 12
    return found


def test_a_map_comes_back_to_the_bit_and_is_a_png_of_three_times_16_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (33, 20, 3), dtype=np.uint16)
    data = encode_map(values)
    assert np.array_equal(read_map(data), values)
    (tmp_path / "map.png").write_bytes(data)
    assert np.array_equal(read_map(tmp_path / "map.png"), values)
    width, height, depth, colour = (data[16:20], data[20:24], data[24], data[25])
    assert (int.from_bytes(width, "big"), int.from_bytes(height, "big"), depth, colour) == (20, 33, 16, 2)
    # Another decoder takes the channels in the same order.
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), values >> 8)
    assert set(png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize("kind", ["png", "webp", "bmp"])
def test_255_of_8_bits_is_1(kind):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **({"lossless": True} if kind == "webp" else {}))
    np.testing.assert_allclose(read_map(file.getvalue()) / 65535, picture / 255, rtol=0, atol=1e-12)


def test_grey_is_repeated_and_alpha_dropped():
    grey = np.random.default_rng(0).integers(0, 65536, (8, 9), dtype=np.uint16)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "png")
    assert np.array_equal(read_map(file.getvalue()), np.repeat(grey[..., None], 3, axis=2))
    rgba = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "png")
    assert np.array_equal(read_map(file.getvalue()), rgba[..., :3].astype(np.uint16) * 257)


def test_what_is_not_void_stays_so_in_16_bits():
    assert to_16_bits([[[0.0, 1e-9, 1.0]]]).tolist() == [[[0, 1, 65535]]]
    values = np.random.default_rng(0).uniform(0, 1, (9, 9, 3))
    np.testing.assert_allclose(to_16_bits(values) / 65535, values, atol=0.5 / 65535)


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (4, 4), (5, 11), (48, 48), (1, 1)])
def test_another_size_takes_the_texel_under_each_centre(size):
    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), dtype=np.uint16)
    expected = [
        [values[int((row + 0.5) * 16 / size[0]), int((column + 0.5) * 16 / size[1])] for column in range(size[1])]
        for row in range(size[0])
    ]
    assert np.array_equal(sample_map(values, size), expected)


def test_damage_is_one_error(capfd):
    data = encode_map(np.random.default_rng(0).integers(0, 65536, (33, 20, 3), dtype=np.uint16))
    rng = np.random.default_rng(1)
    for _ in range(300):
        spoilt = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for at in rng.integers(0, len(spoilt), rng.integers(1, 4)):
            spoilt[at] ^= 1 << rng.integers(8)
        try:
            values = read_map(bytes(spoilt))
        except ImageError:
            continue
        assert values.dtype == np.uint16
        assert values.shape[2] == 3
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
