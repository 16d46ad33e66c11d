"""Primitives compressed with KHR_draco_mesh_compression, decoded by the package DracoPy where it is installed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.meshes.gltf.document import Document, dig
from texdiff.uv.meshes.part import PartError

DRACO = "KHR_draco_mesh_compression"


def is_compressed(document: Document, primitive: dict[str, Any]) -> bool:
    """Whether the primitive has its data in Draco's form only."""
    position = dig(primitive, "attributes", "POSITION")
    stored = "bufferView" in dig(document.tree, "accessors", position, kind=dict, default={})
    return not stored and DRACO in dig(primitive, "extensions", kind=dict, default={})


def decode(document: Document, primitive: dict[str, Any]) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Attributes by name, [V, n] each, and triangles, [T, 3], whatever the primitive's mode.

    Raises:
        PartError: DracoPy is not installed, or cannot decode it.
    """
    try:
        import DracoPy
    except ImportError:
        what = "is Draco-compressed, which needs the package DracoPy"
        raise PartError(f"{what}; pip install 'texdiff[compressed]', or export without compression") from None
    extension = dig(primitive, "extensions", DRACO, kind=dict, default={})
    data = document.view(extension.get("bufferView"))
    try:
        mesh = DracoPy.decode(data)
        faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
        stored = {one["unique_id"]: np.asarray(one["data"]) for one in mesh.attributes}
        attributes = {}
        for name, number in dig(extension, "attributes", kind=dict, default={}).items():
            attributes[name] = _as_declared(document, primitive, name, stored[number])
    except Exception as error:  # its own exceptions, and whatever damaged data make of it
        raise PartError(f"is Draco-compressed and cannot be decoded ({' '.join(str(error).split())[:120]})") from None
    if "POSITION" not in attributes or attributes["POSITION"].shape[1] != 3:
        raise PartError("is Draco-compressed without positions")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(attributes["POSITION"]):
        raise PartError(f"names vertex {faces.max()} of {len(attributes['POSITION'])}")
    return attributes, faces


def _as_declared(document: Document, primitive: dict[str, Any], name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Normalised integers as fractions, as the accessor says."""
    accessor = dig(document.tree, "accessors", dig(primitive, "attributes", name), kind=dict, default={})
    result = values.astype(np.float64).reshape(len(values), -1)
    if accessor.get("normalized") is True and values.dtype.kind in "iu":
        result = np.maximum(result / np.iinfo(values.dtype).max, -1.0)
    return result
