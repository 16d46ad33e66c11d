"""texdiff: fine-tune Stable Diffusion on UV texture atlases, counting only texels that land on the model."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from texdiff.data.prepare import prepare_dataset
    from texdiff.inference.generate import generate
    from texdiff.inference.retexture import retexture
    from texdiff.models.base import load_base

__version__ = "0.2.0"
__all__ = ["generate", "load_base", "prepare_dataset", "retexture"]

_MODULES = {
    "prepare_dataset": "texdiff.data.prepare",
    "generate": "texdiff.inference.generate",
    "retexture": "texdiff.inference.retexture",
    "load_base": "texdiff.models.base",
}


def __getattr__(name: str) -> object:
    """Public names are imported when they are first asked for, so that `import texdiff` loads no libraries."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
