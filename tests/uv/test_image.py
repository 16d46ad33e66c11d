import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from uv_files import lettered_checker, png

from texdiff.uv.image import ImageError, open_image, read_image

PAINT = lettered_checker()


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_row_0_is_the_top(tmp_path: Path) -> None:
    (tmp_path / "paint.png").write_bytes(png(PAINT))
    for source in (tmp_path / "paint.png", png(PAINT)):
        assert np.array_equal(read_image(source), PAINT)


def test_16_bit_grey_is_scaled() -> None:
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    texture = read_image(saved(Image.fromarray(grey)))
    assert texture.shape == (64, 64, 3)
    assert np.abs(texture[..., 0] - grey / 257.0).max() <= 0.5
    assert np.array_equal(texture[..., 0], texture[..., 2])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(PAINT).convert(mode)
    data = saved(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    texture = read_image(data)
    assert texture.shape == PAINT.shape
    assert texture.dtype == np.uint8
    error = np.abs(texture.astype(int) - np.asarray(image.convert("RGB")).astype(int))
    assert error.max() <= 2
    picture = open_image(data)
    assert picture is not None
    assert picture.mode in ("L", "LA", "RGB", "RGBA")


def test_colours_under_alpha_0_stay() -> None:
    rgba = np.dstack([PAINT, np.zeros((64, 64), dtype=np.uint8)])
    assert np.array_equal(read_image(png(rgba)), PAINT)
    palette = Image.fromarray(PAINT).quantize(16)
    assert np.array_equal(read_image(saved(palette, transparency=bytes(16))), np.asarray(palette.convert("RGB")))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    wide = Image.fromarray(PAINT[:32])
    assert read_image(saved(wide, "JPEG", exif=exif)).shape == (32, 64, 3)
    assert np.array_equal(read_image(saved(wide, exif=exif)), PAINT[:32])


def test_one_texel() -> None:
    assert read_image(png(np.full((1, 1, 3), 7, dtype=np.uint8))).tolist() == [[[7, 7, 7]]]


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"not a picture at all", "is not an image in a known format"),
        (png(PAINT)[: len(png(PAINT)) // 2], "cannot be decoded"),
        (saved(Image.fromarray(PAINT), "JPEG")[:-400], "cannot be decoded"),
        (saved(Image.fromarray(np.float32([[0.5, np.nan]])), "TIFF"), "holds values that are infinite or not a number"),
        (bomb(16385, 4), "claims 16385x4 pixels"),
        (bomb(16384, 16384 + 1), "claims 16384x16385 pixels"),
        (bomb(2**31 - 1, 2**31 - 1), "claims 2147483647x2147483647 pixels"),
        (bomb(12000, 12000), "cannot be decoded"),  # within the limit, but nothing in it
    ],
)
def test_each_kind_of_damage_has_its_reason(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as error:
        read_image(data)
    assert "\n" not in str(error.value)
    assert open_image(data) is None


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(ImageError, match="does not exist"):
            read_image(path)


def test_pictures_for_export_are_never_encoded_as_jpeg_again() -> None:
    picture = open_image(saved(Image.fromarray(PAINT), "JPEG"))
    assert picture is not None
    assert picture.format is None
