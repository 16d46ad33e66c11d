"""What a glTF file says of its origin: title, author and licence."""

import re
from pathlib import Path

from texdiff.errors import InputError, one_line
from texdiff.uv.meshes.gltf.document import dig, open_gltf

_KEYS = {"title": ("title",), "author": ("author",), "license": ("license", "licence")}


def read_credit(path: Path) -> dict[str, str]:
    """Of title, author and license what the file has: in `asset.extras`, as Sketchfab writes it, else the holder of
    `asset.copyright` as author. A licence's address is left out: "CC-BY-4.0 (http://...)" is "CC-BY-4.0". Nothing for
    files of other formats, and for one that cannot be read."""
    if path.suffix.lower() not in (".glb", ".gltf"):
        return {}
    try:
        tree = open_gltf(path).tree
    except (InputError, OSError):
        return {}
    extras = dig(tree, "asset", "extras", kind=dict, default={})
    folded = {str(key).lower(): one_line(value) for key, value in extras.items() if isinstance(value, str) and value}
    credit = {what: folded[key] for what, keys in _KEYS.items() for key in keys if key in folded}
    copyright = dig(tree, "asset", "copyright", kind=str, default="")
    if copyright.strip():
        credit.setdefault("author", one_line(copyright))
    if "license" in credit:
        credit["license"] = re.sub(r"\s*\(https?://[^)]*\)$", "", credit["license"])
    return credit
