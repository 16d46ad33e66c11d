"""A dataset and a run on a server that speaks S3, whose connection breaks in between."""

import sys
from collections.abc import Iterator

import pytest
from s3_server import MISSING, S3Server

from texdiff.training.run import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (see CONTRIBUTING.md)"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    one = S3Server()
    yield one
    one.stop()


def test_a_connection_breaks_in_the_middle_of_a_checkpoint(server, train, run_program, write_mesh, draw, tmp_path):
    environment = server.environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for number in range(3):
        write_mesh(tmp_path / f"meshes/cup{number}.glb", draw(number))
    prepare = [sys.executable, "-m", "texdiff.cli", "prepare", tmp_path / "meshes", "--workers", 1]
    made = run_program(*prepare, "--validation_fraction", 0, "--output", "s3://bucket/cups", **environment)
    assert made.returncode == 0, made.stderr

    def trained():
        flags = ["--data.dataset", "s3://bucket/cups", "--run.output_dir", "s3://bucket/run"]
        flags += ["--run.max_train_steps", 2, "--run.checkpointing_steps", 2, "--run.train_batch_size", 1]
        return train(*flags, **environment)

    server.cut_at(b"checkpoints/step-00000002/SHA256SUMS")
    cut = trained()
    assert cut.returncode == 1, cut.stderr
    assert cut.stderr.count("the connection is broken") == 2  # at the checkpoint and at the end
    last = cut.stderr.strip().splitlines()[-1]
    [folder] = (tmp_path / "cache/texdiff/runs").iterdir()
    assert f"nothing is lost: all is in {folder}, from where the same command sends it" in last
    assert Run(folder).is_finished
    there = server.names("run/checkpoints")
    assert "run/checkpoints/step-00000002/weights.safetensors" in there
    assert "run/checkpoints/step-00000002/SHA256SUMS" not in there

    server.connect()
    again = trained()
    assert again.returncode == 0, again.stderr
    here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = {name.removeprefix("run/") for name in server.names("run")}
    assert names - {".writer"} == {name for name in here if not any(part[0] == "." for part in name.split("/"))}
    assert all(server.read(f"run/{name}") == here[name].read_bytes() for name in names - {".writer"})
