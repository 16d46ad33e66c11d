"""`from texdiff import ...`, as a Python user writes it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import texdiff
from texdiff.demo.make import write_meshes

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_importing_texdiff_is_quick_and_loads_no_library() -> None:
    program = (
        "import sys, time\nbefore, start = set(sys.modules), time.perf_counter()\nimport texdiff\n"
        "print(time.perf_counter() - start)\nnew = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))\nfrom texdiff import generate\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    seconds, loaded, torch_for_generate = done.stdout.splitlines()
    assert float(seconds) < 0.2
    assert (loaded, torch_for_generate) == ("texdiff", "False")


def test_every_public_name_is_there_and_no_other() -> None:
    for name in texdiff.__all__:
        assert callable(getattr(texdiff, name)), name
    assert set(texdiff.__all__) == set(texdiff._MODULES)
    with pytest.raises(AttributeError, match="texdiff"):
        texdiff.no_such_name  # noqa: B018


@pytest.mark.slow
def test_the_example_of_the_readme(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), flags=re.M | re.S)
    (tmp_path / "example.py").write_text(example, "utf-8")
    write_meshes(tmp_path / "made", count=1, seed=0, size=64)
    (mesh,) = (tmp_path / "made").glob("*.glb")
    (tmp_path / "meshes").mkdir()
    shutil.copy(mesh, tmp_path / "meshes/crate.glb")
    command = [sys.executable, "-W", "ignore", "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "outputs").iterdir()}
    assert made == {"dataset", "crate.glb", "atlas.png", "by_hand.glb"}


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_and_names_that_a_page_gives_are_there(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    paths = re.findall(r"`((?:texdiff|tests|benchmarks|docs|configs)/[\w./]*|\w+\.(?:py|yaml))`", text)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists() and path not in ("config.yaml", "utils.py")] == []
    for name, path in re.findall(r"`(\w+)` in `([\w/]+\.py)`", text):
        assert re.search(rf"^ *(?:def|class) {name}\b", (ROOT / path).read_text("utf-8"), flags=re.M), (name, path)
