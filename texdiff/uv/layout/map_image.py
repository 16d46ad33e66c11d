"""A map in UV space as an image: 16-bit RGB, a value is number / 65535, and the void is 0."""

from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.uv.image import ImageError, image_bytes, read_image

Value = TypeVar("Value", bound=np.generic)

_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # the byte of a PNG that gives the bits of a channel


def read_map(source: Path | bytes) -> NDArray[np.uint16]:
    """Decode a map to uint16 [H, W, 3], of which 65535 is 1.

    A PNG keeps its 16 bits, and 255 of 8 bits becomes 65535. Grey is repeated over the channels, alpha is dropped.

    Raises:
        ImageError: as `read_image`.
    """
    data = image_bytes(source) if isinstance(source, Path) else source
    eight_bits = read_image(data)  # which refuses what is damaged or too large
    if data.startswith(_PNG) and data[_DEPTH] == 16:
        kind = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), kind)
        if decoded is None or decoded.dtype != np.uint16 or decoded.shape != eight_bits.shape:
            raise ImageError("cannot be decoded as a PNG of 16 bits")
        return np.ascontiguousarray(decoded[..., ::-1], dtype=np.uint16)
    return eight_bits.astype(np.uint16) * np.uint16(257)


def encode_map(values: NDArray[np.uint16]) -> bytes:
    """A map, uint16 [H, W, 3], as PNG: what `read_map` reads."""
    done, data = cv2.imencode(".png", values[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done
    return data.tobytes()


def to_16_bits(values: ArrayLike) -> NDArray[np.uint16]:
    """Values in [0, 1], [H, W, 3], as those of a map's image; what is not 0 stays at least 1, so is not void."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(values > 0, np.maximum(np.rint(values * 65535), 1), 0).astype(np.uint16)


def without_position(values: NDArray[np.uint16], mask: NDArray[np.bool_]) -> float:
    """Share of the texels of a mask [H, W] at which a map [h, w, 3] has nothing, 0-1."""
    empty = ~sample_map(values, mask.shape).any(axis=2)
    return float((empty & mask).sum() / max(int(mask.sum()), 1))


def sample_map(values: NDArray[Value], size: tuple[int, ...]) -> NDArray[Value]:
    """A map [H, W, K] at another size (height, width): at each new texel's centre the texel that lies there.

    Nothing is interpolated: a mean over a border would lie inside the object. So it differs by half a texel of the map
    from one that is drawn at this size.
    """
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, values.shape[:2], strict=True)
    )
    return values[rows[:, None], columns]
