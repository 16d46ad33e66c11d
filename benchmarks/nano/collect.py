"""Gather real textures for the autoencoder of `nano`: a training set of at most 38 MB, and held-out sets by kind.

    python -m benchmarks.nano.collect [--folder FOLDER]

Downloads the Debian packages of sources.csv and unpacks them, installing nothing; needs apt-get, dpkg-deb and 16 GB.
Writes to FOLDER (outputs/nano-data where left out):

    train/pictures.bin, train/index.json    JPEG files end to end, and what each is
    heldout/KIND/NAME.png, NAME.mask.png    256 x 256 texels, lossless; from packages that the training never sees,
                                            furniture apart, where it is the quarter of pictures.held_out
    CREDITS.md                              the packages, their licences, and how many pictures each gave
"""

import argparse
import csv
import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pool
from multiprocessing.pool import Pool as ProcessPool
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.nano.heldout import write_heldout
from benchmarks.nano.pictures import held_out, thumbnail

LIMIT_BYTES = 38_000_000
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 86, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
JPEG += [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
SIDES = {"surfaces": 256, "scenery": 256, "plants": 256, "planets": 256}
"""Longest side kept, in texels, of the kinds that are worth less; 320 for the rest."""
ALIKE = 0.02
"""Mean difference of two thumbnails, of the range, under which they are taken for the same picture."""
APART = 0.025
"""The same for a picture to train with and one to judge by: wider, as one of them has been resized and compressed."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".tga", ".dds", ".pcx", ".webp", ".bmp", ".rgb"}
ARCHIVES = {".pk3", ".wz", ".zip", ".sh3f"}
# What is no colour texture by its name: maps of other things, what is drawn on the screen, skies, effects.
SKIP = re.compile(
    r"(?:[_-](?:norm|nm|n|normals?|normalmap|bump|spec|specular|s|gloss|glow|blend|luma|shirt|pants|ao|height|h|hm|sc|sh"
    r"|local|mask|masks|tcmask|alpha|a|refl|env|gm|sm|pbr\w*|roughness|metal\w*|uvw|shadow))\.[a-z]+$"
    r"|/(?:gui|icons?|menu|fonts?|gfx|levelshots|levelshot|maps|cursors?|intfac|frontend|flags|editor|skins|hud|sprites?"
    r"|particles?|avatars?|sky|skies|env|ui|pixmaps|doc|brushes|caustics|effects?|ufopedia|server)/"
    r"|font|lightmap|skybox|minimap|screenshot|heightmap|normal|specular|gloss|icon|preview|/sky|_sky|cloud|flare|smoke"
    r"|explo|/exp\d|halo|lensfl|flame|beam|particle|light_?glow|caustic|/fx|_fx|sshot|portrait|palette|noise|shadow"
    r"|spark|lightning|loading_screen|/f_|plasma|bfg0?\d|ammo2|atmosphere|rings\d|ruins|/damage\d|shadow|slipstream|rballs|rboom|plasscroll|electric\.|shieldfx|/muzzy|lensflare|quadlite|muzz|blast|trail|wheel|envmap|cubemap|/blank|/black|/white|/pm_|licence|license|_ibl|-ibl",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """A row of sources.csv: pictures of a package whose path matches, at most `limit`, for one use and kind."""

    package: str
    use: str
    kind: str
    match: str
    limit: int
    licence: str
    credit: str


@dataclass
class Found:
    """A picture that may be used: its texels are read again when it is."""

    path: Path
    name: str  # path inside the package
    source: Source
    digest: bytes
    thumbnail: np.ndarray
    kept_apart: bool  # of the quarter of the furniture that is for evaluation

    def read(self) -> np.ndarray | None:
        return read_picture(self.path)


def read_sources() -> list[Source]:
    with (Path(__file__).with_name("sources.csv")).open(encoding="utf-8", newline="") as file:
        return [Source(**{**row, "limit": int(row["limit"])}) for row in csv.DictReader(file)]


def download(packages: list[str], folder: Path) -> None:
    """Packages unpacked into folder/PACKAGE, archives inside them into folders beside them."""
    for name in ("debs", "unpacked"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for package in tqdm(packages, "download", disable=None):
        place = folder / "unpacked" / package
        if place.exists():
            continue
        if not list((folder / "debs").glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder / "debs", check=True)
        part = place.with_name(f"{package}.part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(["dpkg-deb", "-x", next((folder / "debs").glob(f"{package}_*.deb")), part], check=True)
        for archive in [p for p in part.rglob("*") if p.suffix in ARCHIVES and p.is_file() and not p.is_symlink()]:
            with zipfile.ZipFile(archive) as file:
                file.extractall(archive.with_name(archive.name + ".d"))
        part.rename(place)


def read_picture(path: Path) -> np.ndarray | None:
    """uint8 RGB [H, W, 3], or None for what can't be read. Transparent texels keep their colour."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGBA" if image.mode in ("P", "PA", "LA") else image.mode).convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def is_colour_texture(picture: np.ndarray) -> bool:
    """Whether the statistics allow it: neither nearly uniform nor a map of normals."""
    small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    flat = small.reshape(-1, 3)
    commonest = np.unique((flat / 8).astype(np.int32) @ [1, 64, 4096], return_counts=True)[1].max() / len(flat)
    red, green, blue = flat.mean(0)
    normals = blue > 170 and abs(red - 128) < 30 and abs(green - 128) < 30
    edges = np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
    return bool(flat.std(0).max() > 6 and commonest < 0.8 and not normals and edges > 1.5)


def look(job: tuple[Path, str, Source]) -> Found | None:
    path, name, source = job
    picture = read_picture(path)
    if picture is None or min(picture.shape[:2]) < 128 or max(picture.shape[:2]) > 6 * min(picture.shape[:2]):
        return None
    if not is_colour_texture(picture):
        return None
    apart = source.kind == "furniture" and held_out(np.ascontiguousarray(picture))
    digest = hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).digest()
    return Found(path, name, source, digest, thumbnail(picture), apart)


def catalogue_icons(place: Path) -> set[str]:
    """Paths in their archive, from /, of the pictures of furniture that Sweet Home 3D's catalogues list as icons."""
    lines = (line for p in place.rglob("*.properties") for line in p.read_text("latin-1").splitlines())
    return {line.partition("=")[2].strip() for line in lines if re.match(r"(?:icon|planIcon)#", line)}


def jobs(sources: list[Source], folder: Path, use: str) -> Iterator[tuple[Path, str, Source]]:
    """Every picture with the first row of its package and use that matches it."""
    for package in dict.fromkeys(s.package for s in sources if s.use == use):
        rows = [s for s in sources if s.package == package and s.use == use]
        place = folder / "unpacked" / package
        icons = catalogue_icons(place)
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place).as_posix()
            if path.suffix.lower() not in SUFFIXES or SKIP.search("/" + name) or path.is_symlink():
                continue
            if "/" + name.partition(".sh3f.d/")[2] in icons:
                continue
            row = next((s for s in rows if re.search(s.match, name, re.IGNORECASE)), None)
            if row:
                yield path, name, row


def search(sources: list[Source], folder: Path, use: str, pool: ProcessPool) -> list[Found]:
    """Every usable picture, in an order that has nothing to do with where it is from."""
    all_jobs = list(jobs(sources, folder, use))
    found = [f for f in tqdm(pool.imap(look, all_jobs, 16), f"look for {use}", len(all_jobs), disable=None) if f]
    return sorted(found, key=lambda f: f.digest)


def turned(one: np.ndarray) -> np.ndarray:
    """A thumbnail [192] in its eight orientations, [8, 192]."""
    square = one.reshape(8, 8, 3)
    return np.stack([np.rot90(s, k).ravel() for s in (square, square[:, ::-1]) for k in range(4)])


def choose(found: list[Found], evaluation: list[np.ndarray]) -> list[Found]:
    """Each picture once, none that resembles one for evaluation in any orientation, no row above its limit."""
    kept: list[Found] = []
    thumbnails = np.empty((len(found), 192), np.float32)
    apart = np.stack([t for one in evaluation for t in turned(one)])
    counts: Counter[Source] = Counter()
    for one in tqdm(found, "choose", disable=None):
        if one.kept_apart or counts[one.source] >= one.source.limit:
            continue
        if kept and np.abs(thumbnails[: len(kept)] - one.thumbnail).mean(1).min() < ALIKE:
            continue
        if np.abs(apart - one.thumbnail).mean(1).min() < APART:
            continue
        thumbnails[len(kept)] = one.thumbnail
        kept.append(one)
        counts[one.source] += 1
    return kept


def encode(one: Found) -> tuple[Found, bytes, int, int]:
    """JPEG without chroma subsampling, its width and height."""
    picture = one.read()
    side = SIDES.get(one.source.kind, 320)
    scale = side / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", picture[..., ::-1], JPEG)
    return one, content.tobytes(), picture.shape[1], picture.shape[0]


def pack(chosen: list[Found], folder: Path, pool: ProcessPool) -> list[dict]:
    """pictures.bin and index.json into `folder`, which is replaced as a whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    index, offset = [], 0
    with (part / "pictures.bin").open("wb") as file:
        for one, content, width, height in tqdm(pool.imap(encode, chosen, 16), "pack", len(chosen), disable=None):
            entry = {"file": "pictures.bin", "offset": offset, "length": len(content), "width": width, "height": height}
            entry |= {"package": one.source.package, "kind": one.source.kind, "path": one.name}
            index.append(entry)
            file.write(content)
            offset += len(content)
    (part / "index.json").write_text(json.dumps(index, indent=0), "utf-8")
    if offset > LIMIT_BYTES:
        raise SystemExit(f"{offset:,} bytes are more than {LIMIT_BYTES:,}: lower the limits in sources.csv")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return index


def credits(sources: list[Source], train: Counter[str], heldout: Counter[str]) -> str:
    """The table of packages for the model's card."""
    lines = ["| package | licence | by | training | held out |", "|---|---|---|---|---|"]
    for package in dict.fromkeys(s.package for s in sources):
        row = next(s for s in sources if s.package == package)
        lines.append(f"| {package} | {row.licence} | {row.credit} | {train[package]} | {heldout[package]} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/nano-data"))
    folder = parser.parse_args().folder
    cv2.setNumThreads(1)
    Image.MAX_IMAGE_PIXELS = None
    sources = read_sources()
    download(list(dict.fromkeys(s.package for s in sources)), folder)
    with Pool() as pool:
        apart = search(sources, folder, "heldout", pool)
        meshes = {s.match: s.package for s in sources if s.use == "meshes"}
        held = write_heldout(apart, meshes, folder)
        found = search(sources, folder, "train", pool)
        evaluation = [f.thumbnail for f in apart if f.source.kind != "furniture"]
        evaluation += [f.thumbnail for f in found if f.kept_apart]
        index = pack(choose(found, evaluation), folder / "train", pool)
    trained, judged = Counter(entry["package"] for entry in index), Counter(source.package for source in held)
    (folder / "CREDITS.md").write_text(credits(sources, trained, judged), "utf-8")
    print(f"{len(index)} pictures to train with, {sum(e['length'] for e in index):,} bytes; {len(held)} held out")


if __name__ == "__main__":
    main()
