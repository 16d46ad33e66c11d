"""Decode a texture's image file as a renderer would take it: RGB, row 0 on top, nothing rotated, nothing invented."""

import hashlib
import io
import os
import secrets
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from texdiff.errors import one_line

# What an image may claim before its pixels are decoded: glTF viewers and GPUs stop at 16384 too.
MAX_SIDE = 16384
MAX_PIXELS = 1 << 28
MAX_BYTES = 1 << 30


class ImageError(Exception):
    """The image cannot be used; the text says why, in the form "is empty (0 bytes)"."""


def read_image(source: Path | bytes) -> NDArray[np.uint8]:
    """Decode an image to uint8 [H, W, 3].

    Alpha is dropped and the stored RGB kept, also where alpha is 0: the texels are what they are, and the alpha of a
    base-colour texture is opacity, not coverage. 16-bit grey is scaled to 8 bits. EXIF orientation is not applied:
    UV coordinates refer to the stored rows. Of an animation the first frame is taken.

    Raises:
        ImageError: missing, empty, truncated, too large, or not an image.
    """
    return _rgb(_decode(source))


def read_mask(source: Path | bytes) -> NDArray[np.uint8]:
    """Decode a mask to uint8 [H, W]: the mean of its RGB. Where its alpha is not opaque, the RGB counts only if it is
    black and white where it can be seen; else the alpha is the mask.

    Raises:
        ImageError: as `read_image`.
    """
    image = _decode(source)
    rgb = _rgb(image)
    grey = np.asarray(np.rint(rgb.mean(axis=2)), np.uint8)
    if not image.has_transparency_data:
        return grey
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    seen = rgb[alpha > 0]
    both = len(seen) > 0 and not np.ptp(seen, axis=1).any() and seen.min() < 16 and seen.max() > 239
    return grey if both or alpha.min() == 255 else alpha


def read_grey16(source: Path | bytes) -> NDArray[np.uint16]:
    """Decode an image of 16-bit grey to uint16 [H, W]; ImageError for any other, also of 8 bits."""
    image = _decode(source)
    if not image.mode.startswith("I;16"):
        raise ImageError(f"is not a 16-bit grey image (its mode is {image.mode})")
    return np.asarray(image).astype(np.uint16)


def _decode(source: Path | bytes) -> Image.Image:
    if isinstance(source, Path):
        source = image_bytes(source)
    if not source:
        raise ImageError("is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; our own limit decides
            image = open_unlimited(io.BytesIO(source))
            width, height = image.size
            if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                raise ImageError(f"claims {width}x{height} pixels, more than {MAX_SIDE} a side or {MAX_PIXELS} in all")
            image.load()  # a truncated file shows only here
            if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
                raise ImageError("holds values that are infinite or not a number")
            return image
    except UnidentifiedImageError:
        raise ImageError("is not an image in a known format") from None
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error) as error:
        # Pillow's decoders raise all of these on damaged files.
        raise ImageError(f"cannot be decoded ({one_line(error)})") from None


def open_unlimited(source: Path | BinaryIO) -> Image.Image:
    """Header only. Pillow's own limit of pixels is lower than ours and holds for the process; it is put back."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(source)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def image_bytes(path: Path) -> bytes:
    """What an image's file holds. Raises ImageError where it is not there, or longer than any image."""
    try:
        if not path.is_file():
            raise ImageError("does not exist")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"has {path.stat().st_size} bytes, more than the limit of {MAX_BYTES}")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from None


def open_image(source: Path | bytes) -> Image.Image | None:
    """The image with its alpha, for export; None where ``read_image`` would refuse it.

    It has no file format, so that an export writes PNG: an image that came as JPEG must not be encoded to JPEG again.
    """
    try:
        image = _decode(source)
    except ImageError:
        return None
    if image.mode in ("P", "PA"):
        return image.convert("RGBA")
    return image.copy() if image.mode in ("RGB", "RGBA", "L", "LA") else Image.fromarray(_rgb(image))


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey comes as I;16 or I; convert("RGB") clips it
        grey = np.asarray(image, dtype=np.float64)
        # I holds 16-bit values in all formats that textures come in; F has no agreed range but 0..1.
        grey = grey * 255.0 if image.mode == "F" else grey / 257.0
        return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette's transparent entry keeps its colour this way
    if image.mode in ("RGBA", "RGBX", "RGBa"):
        return np.ascontiguousarray(np.asarray(image)[..., :3])
    if image.mode == "LA":
        return np.repeat(np.asarray(image)[..., :1], 3, axis=2)
    return np.ascontiguousarray(np.asarray(image.convert("RGB")))


def content_hash(texture: np.ndarray) -> str:
    """SHA-256 of the decoded pixels, uint8 [H, W, 3], and their shape: the same image in any file or format."""
    digest = hashlib.sha256(f"{texture.shape[0]}x{texture.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(texture).data)  # without a copy: it may be of 800 MB
    return digest.hexdigest()


def write_png(image: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W], [H, W, 3] or uint16 [H, W] as PNG, atomically; an existing file is left as it is."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")  # processes of several machines may write it
    Image.fromarray(image).save(aside, format="PNG", compress_level=4)
    os.replace(aside, path)
