"""Find the images and material files that a mesh file names, also where names were written on another machine."""

import os
import re
import unicodedata
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from texdiff.paths import near_mesh


def find_file(name: str, folders: list[Path]) -> Path | None:
    """The file that a mesh or material file in the first of ``folders`` means by ``name``.

    Tried in turn: the path as written (also with the other kind of slashes), then its last component beside the
    material, each also with %20 and the like decoded, and last in ../textures, as downloads from Sketchfab have it;
    every component exactly, and then without regard to case and to whether accents are composed. Made for paths from
    another machine, and followed only where `near_mesh` allows.
    """
    posix = name.strip().strip("\"'").replace("\\", "/")
    posix = re.sub(r"/{2,}", "/", posix)
    if not posix or "\0" in posix:
        return None
    posix = re.sub(r"^file:/*(?=[A-Za-z]:|/)", "", posix, flags=re.IGNORECASE)
    names = [posix, posix.replace("/ ", " ")] if "\\ " in name else [posix]  # a space may be escaped
    tries = [*names, *(PurePosixPath(re.sub(r"^[A-Za-z]:", "", one)).name for one in names)]
    tries += [decoded for name in tries if (decoded := unquote(name, errors="surrogateescape")) != name]
    beside = [folder.parent / "textures" for folder in folders]
    for candidate, places in [*((name, folders) for name in tries), *((PurePosixPath(n).name, beside) for n in tries)]:
        for folder in places:
            found = _beneath(folder, candidate)
            if found is not None and near_mesh(found, folders[-1] / "mesh"):
                return found
    return None


def missing_image(name: str) -> str:
    """Why a material has no image whose file `find_file` did not find."""
    return f"names the image {name}, which does not exist near the mesh, nor a file of that name beside it"


def _beneath(folder: Path, name: str) -> Path | None:
    try:
        if (folder / name).is_file():
            return folder / name
        if PurePosixPath(name).is_absolute():
            return None
        here = folder
        for component in PurePosixPath(name).parts:
            if component not in ("..", ".") and not (here / component).exists():
                names = sorted(entry for entry in os.listdir(here) if _folded(entry) == _folded(component))
                if not names:
                    return None
                component = names[0]
            here = here / component
        return here if here.is_file() else None
    except (OSError, ValueError):  # a component that is no folder, a name that the file system cannot have
        return None


def _folded(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:  # not UTF-8 on the disk: written by an old program, so most likely Latin-1
        name = name.encode("utf-8", "surrogateescape").decode("latin-1")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
