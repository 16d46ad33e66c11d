"""`from texdiff import ...`, as a Python user writes it."""

import subprocess
import sys

import pytest

import texdiff


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
