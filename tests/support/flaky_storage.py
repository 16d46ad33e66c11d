"""A storage whose connection can be cut: fsspec's own memory under another name, flaky://."""

from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem


class FlakyFileSystem(MemoryFileSystem):
    """Raises ConnectionError from its next calls on: `failures` of them, of those whose name begins with `of`."""

    protocol = "flaky"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    failures = 0
    of: tuple[str, ...] = ()
    calls: list[tuple[str, str]] = []

    @classmethod
    def clean(cls) -> None:
        """Forget everything."""
        cls.store, cls.pseudo_dirs, cls.failures, cls.of, cls.calls = {}, [""], 0, (), []

    @classmethod
    def cut(cls, failures: int = 1_000_000, of: tuple[str, ...] = ()) -> None:
        """Have the next calls fail, or those to functions of these names."""
        cls.failures, cls.of = failures, of

    def _answer(self, function: str, path: str) -> None:
        type(self).calls.append((function, self._strip_protocol(path)))
        if self.failures > 0 and (not self.of or function in self.of):
            type(self).failures -= 1
            raise ConnectionError("connection reset by peer")

    def _open(self, path, mode="rb", *args, **kwargs):
        file = super()._open(path, mode, *args, **kwargs)
        # fsspec gives every reader the same file with one position: two threads would read half of it each.
        return MemoryFile(self, file.path, file.getvalue()) if mode == "rb" else file

    def find(self, path, *args, **kwargs):
        self._answer("find", path)
        return super().find(path, *args, **kwargs)

    def cat_file(self, path, *args, **kwargs):
        self._answer("cat_file", path)
        return super().cat_file(path, *args, **kwargs)

    def pipe_file(self, path, value, *args, **kwargs):
        self._answer("pipe_file", path)
        return super().pipe_file(path, value, *args, **kwargs)

    def get_file(self, rpath, lpath, *args, **kwargs):
        self._answer("get_file", rpath)
        return super().get_file(rpath, lpath, *args, **kwargs)

    def put_file(self, lpath, rpath, *args, **kwargs):
        self._answer("put_file", rpath)
        return super().put_file(lpath, rpath, *args, **kwargs)

    def rm_file(self, path):
        self._answer("rm_file", path)
        return super().rm_file(path)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
