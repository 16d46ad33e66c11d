"""A Python that has torch and diffusers loaded already, and forks for each program: imports are most of a short run.

Each program is a process of its own, with its own arguments, environment, output and exit code. What only a cold start
shows (what is loaded, and when) is for `subprocess`.
"""

import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = {"train_texture.py": ROOT / "train_texture.py", "texdiff.cli": ROOT / "texdiff/cli/__main__.py"}
LIMIT = 600  # seconds


def own_program(words: list[str]) -> list[str] | None:
    """The script and its arguments, where a command runs one of texdiff's own programs; None where it does not."""
    if words[0] == sys.executable and words[1] in OWN:
        return [str(OWN[words[1]]), *words[2:]]
    if words[0] == sys.executable and words[1] == "-m" and words[2] in OWN:
        return [str(OWN[words[2]]), *words[3:]]
    if Path(words[0]).name == "texdiff":
        return [str(OWN["texdiff.cli"]), *words[1:]]
    return None


class WarmPython:
    """The client's side: starts the server when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server, self.count = folder, None, 0

    def run(self, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `words`, a script and its arguments, and wait for it."""
        if self.server is None:
            command = [sys.executable, __file__]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            # What forks should have one thread. Models this small only lose by a second one anyway.
            one_thread = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
            self.server = subprocess.Popen(command, cwd=ROOT, env=os.environ | one_thread, **pipes)
        self.count += 1
        said = [self.folder / f"{self.count}.{name}" for name in ("out", "err")]
        request = {"words": words, "environment": environment, "said": [str(path) for path in said]}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(path.read_text(errors="replace") for path in said))

    def end(self) -> None:
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait()
            self.server.stdout.close()


def serve() -> list[str] | None:
    """Fork for each line of stdin and answer with the exit code; the fork returns with its program's words."""
    while line := os.read(0, 1 << 20).decode():
        request = json.loads(line)
        if (process := os.fork()) == 0:
            signal.alarm(LIMIT)
            os.environ.clear()
            os.environ.update(request["environment"])
            files = [os.devnull, *request["said"]]
            for number, path in enumerate(files):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            return request["words"]
        _, status = os.waitpid(process, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))
    return None


if __name__ == "__main__":
    sys.path[:1] = [str(ROOT)]
    for name in ("jsonargparse", "pandas", "diffusers", "peft", "transformers"):  # pandas for pyarrow
        importlib.import_module(name)
    for module in pkgutil.walk_packages([str(ROOT / "texdiff")], "texdiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1
    if words := serve():
        sys.argv = words
        sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
        runpy.run_path(words[0], run_name="__main__")
