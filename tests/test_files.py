"""Files that are there whole or not at all: who may read them."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from texdiff.files import atomic_folder


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_files_in_a_folder_follow_the_umask(umask, file, folder, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "made") as aside:
            (aside / "inner").mkdir()
            save_file({"a": np.zeros(3)}, aside / "inner/weights.safetensors")  # 0600 whatever the umask
            (aside / "other.json").write_text("{}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "made", *(tmp_path / "made").rglob("*")]}
    assert modes == {"made": folder, "inner": folder, "weights.safetensors": file, "other.json": file}
