"""Safetensors files whose bytes follow from their content: the library writes metadata in an order that changes."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from texdiff.files import write_atomic

_LENGTH = struct.Struct("<Q")  # of the header in bytes: how a safetensors file begins


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, completely or not at all; the same content gives the same bytes.

    Where the metadata has keys of ModelSpec, the hash of all tensors' bytes that it asks for is added.
    """
    plain = save({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)})
    (length,) = _LENGTH.unpack_from(plain)
    start = _LENGTH.size + length
    entries = dict(sorted(metadata.items()))
    if any(key.startswith("modelspec.") for key in entries):
        entries["modelspec.hash_sha256"] = "0x" + hashlib.sha256(plain[start:]).hexdigest()
    header = json.dumps({"__metadata__": entries} | json.loads(plain[_LENGTH.size : start]), separators=(",", ":"))
    text = header.encode()
    text += b" " * (-len(text) % 8)  # so that tensors stay aligned
    write_atomic(path, _LENGTH.pack(len(text)) + text + plain[start:], durable=False)
