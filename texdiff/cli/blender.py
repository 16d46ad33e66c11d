"""`texdiff blender`: the add-on for Blender as a file that Blender installs."""

import io
import sys
import zipfile
from pathlib import Path

from texdiff import __version__
from texdiff.errors import InputError
from texdiff.files import write_atomic

ADDON = Path(__file__).parents[1] / "assets/blender"


def blender(*, output: str = "texdiff_blender.zip") -> int:
    """Write the add-on for Blender 4.2 and later, which runs the Python that writes it.

    Args:
        output: A .zip to write, for Edit > Preferences > Add-ons > Install from Disk.
    """
    path = Path(output)
    if path.suffix.lower() != ".zip" or path.is_dir():
        raise InputError(f"--output {output}: must be a file that ends in .zip")
    program = (ADDON / "__init__.py").read_text("utf-8")
    manifest = (ADDON / "blender_manifest.toml").read_text("utf-8")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("blender_manifest.toml", manifest.replace('"VERSION"', f'"{__version__}"'))
        archive.writestr("__init__.py", program.replace('PYTHON = "python"', f"PYTHON = {sys.executable!r}"))
    write_atomic(path, buffer.getvalue())
    print(f"wrote {output} for {sys.executable}: in Blender, Edit > Preferences > Add-ons > Install from Disk")
    return 0
