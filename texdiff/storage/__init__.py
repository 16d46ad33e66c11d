"""Files in object storage, by address: s3://bucket/folder, hf://..., gs://..., all that fsspec reads.

A connection that fails is tried again a few times, for some seconds in all. What then is still wrong is one line.
Files are written whole or not at all, here as there. Credentials and endpoints are the libraries' own business: the
environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), their files, or fsspec's (FSSPEC_S3_...).
"""

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from texdiff.errors import InputError, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt
_PATIENCE = 30.0  # seconds after which there is none, as libraries try several times themselves
_AT_ONCE = 8  # files on their way
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # not a drive, which has one letter
_COMPLETE = re.compile(r"[^/]+:///?[^/]")
_STAMPS = ("ETag", "etag", "md5Hash", "md5", "blob_id", "LastModified", "last_modified", "updated", "mtime", "created")
_ON_THIS_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
Found = TypeVar("Found")


class ConnectionBroken(InputError):
    """Storage that did not answer, also when it was asked again. The same may work later."""


class Missing(InputError):
    """What is not in storage."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a listing says of a file."""

    size: int
    """Bytes."""
    stamp: str
    """Changes whenever the file does."""


def default_cache_dir() -> Path:
    """texdiff/ in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "texdiff"


def is_address(name: str) -> bool:
    """Whether a name is an address in storage, rather than a path or an id of the hub. Also one that lacks a slash, so
    that it is not taken for a folder."""
    return _ADDRESS.match(name) is not None


def join(address: str, name: str) -> str:
    """The address of `name` in the folder `address`."""
    return f"{address.rstrip('/')}/{name}"


def find(address: str) -> dict[str, Stored]:
    """All files in a folder and those within it, by their names in it, sorted; none where there is no such folder. Of
    a file, itself, named ''. Raises InputError, as all functions here do, in one line that names the address."""

    def ask(files: "AbstractFileSystem", path: str) -> dict[str, Stored]:
        files.invalidate_cache()
        try:
            listing = files.find(path, detail=True)
        except FileNotFoundError:
            return {}
        root = files._strip_protocol(path).rstrip("/")
        return {name.removeprefix(root).lstrip("/"): _stored(listing[name]) for name in sorted(listing)}

    return _tried(address, ask)


def read(address: str) -> bytes:
    """The bytes of a file."""
    return _tried(address, lambda files, path: files.cat_file(path))


def scan(address: str, do: Callable[[IO[bytes]], Found]) -> Found:
    """What `do` makes of a file, of which only the parts are fetched that it reads."""

    def ask(files: "AbstractFileSystem", path: str) -> Found:
        with files.open(path, "rb", cache_type="none") as file:
            return do(file)

    return _tried(address, ask)


def write(address: str, content: bytes) -> None:
    """Give a file this content."""
    _tried(address, lambda files, path: files.pipe_file(path, content))


def check_writable(address: str) -> None:
    """Know before long work that files can be written to a folder, by one that is gone at once."""
    probe = join(address, ".texdiff")
    write(probe, b"")
    remove(probe)


def remove(address: str) -> None:
    """Delete a file, where it is there."""

    def delete(files: "AbstractFileSystem", path: str) -> None:
        try:
            files.rm_file(path)
        except FileNotFoundError:
            return

    _tried(address, delete)


def upload(file: Path, address: str) -> None:
    """Copy a file to storage. Raises OSError where it cannot be read here."""
    file.stat()  # so that what is missing there is not taken for what is missing here
    _tried(address, lambda files, path: files.put_file(str(file), path))


def download(address: str, file: Path) -> None:
    """Copy a file from storage, to its name at once when all of it is there. Folders above it are made.

    Raises OSError where it cannot be written here, with nothing left of it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name[:100]}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        _tried(address, lambda files, path: files.get_file(path, str(aside)))
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def upload_files(
    folder: Path, names: list[str], address: str, sent: Callable[[str], object] = lambda name: None
) -> None:
    """Copy these files of a folder to the folder `address`, some at a time; `sent` is told of each that is there."""

    def send(name: str) -> None:
        upload(folder / name, join(address, name))
        sent(name)

    _together(send, names)


def download_files(address: str, names: list[str], folder: Path) -> None:
    """Copy these files of the folder `address` to a folder, some at a time. Raises InputError for a name that leads out
    of it."""
    if outside := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
        raise InputError(f"{join(address, outside[0])}: its name leads out of its folder; give it another")
    _together(lambda name: download(join(address, name), folder / name), names)


def settled(fetch: Callable[[], Found]) -> Found:
    """What `fetch` returns, which lists a folder and reads its files: again where one of them has gone meanwhile, as
    somebody writes there. Raises Missing where that does not end."""
    for _ in range(4):
        try:
            return fetch()
        except Missing:
            continue
    return fetch()


def _together(do: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        asked = [threads.submit(do, name) for name in names]
        try:
            for one in asked:
                one.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _stored(about: Mapping[str, Any]) -> Stored:
    size = int(about.get("size") or 0)
    stamp = next((about[key] for key in _STAMPS if about.get(key) is not None), "")
    return Stored(size, f"{size} {stamp}")


def _tried(address: str, do: Callable[["AbstractFileSystem", str], Found]) -> Found:
    """What `do` returns, given the file system that an address is on and the path there, after some attempts."""
    import fsspec

    if not _COMPLETE.match(address):
        raise InputError(f"{address}: is not a complete address; give one such as s3://bucket/folder")
    with _explained(address):
        folders = {"auto_mkdir": True} if address.startswith("file://") else {}  # elsewhere they come with their files
        files, path = fsspec.core.url_to_fs(address, **folders)
    end = time.monotonic() + _PATIENCE
    for wait in (*WAITS, None):
        with _explained(address):
            try:
                found = do(files, path)
            except Exception as error:
                if wait is None or time.monotonic() > end or not _may_pass(error):
                    raise
                _Said.once(address, error)
                time.sleep(wait)
            else:
                _Said.failing = False
                return found
    raise AssertionError("the last attempt returns or raises")


class _Said:
    """Whether it was said that a connection fails, since the last time that one did not."""

    failing = False

    @classmethod
    def once(cls, address: str, error: Exception) -> None:
        if not cls.failing:
            cls.failing = True
            text = f"{address}: no answer ({one_line(error)[:200]}); trying again for a while"
            print(text, file=sys.stderr, flush=True)


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help. Each library has errors of its own for a broken connection; what is told apart is
    the rest."""
    final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, InputError)
    own = isinstance(error, OSError) and error.errno in _ON_THIS_DISK
    return not (own or isinstance(error, (*final, ImportError, NotImplementedError, ValueError, TypeError))) and (
        _status(error) not in (400, 401, 403, 404) and "Credential" not in type(error).__name__
    )


def _status(error: Exception) -> int | None:
    """The number of an answer by HTTP, where the library passes it on."""
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Errors of the libraries as one line; those of this machine's disk as they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno in _ON_THIS_DISK):
            raise
        kind = InputError
        said = one_line(error)[:300]
        if isinstance(error, ImportError):
            what = f"needs a package that is not installed ({said}); {_installation(address)}"
        elif isinstance(error, ValueError) and "not known" in said:
            what = f"no storage of a kind that fsspec knows ({said}); give a path, or an address such as s3://bucket/x"
        elif isinstance(error, FileNotFoundError) or _status(error) == 404:
            kind = Missing
            what = f"is not there ({said}); check the name of the bucket and of the file or folder in it"
        elif isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credential" in type(error).__name__:
            what = f"is not open to you ({said}); give credentials, as the environment or the storage's own files do"
        elif not _may_pass(error):
            what = f"cannot be used so ({said}); check the address, and what is there"
        else:
            kind, what = ConnectionBroken, f"the connection is broken ({said}); try again once the storage answers"
        raise kind(f"{address}: {what}") from None


def _installation(address: str) -> str:
    from fsspec.registry import known_implementations

    implementation = known_implementations.get(address.split("://")[0].lower(), {}).get("class", "")
    package = implementation.split(".")[0]
    return f"pip install {package}" if package not in ("", "fsspec") else "install it"
