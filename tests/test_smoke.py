"""Read this first: what training leaves in its folder, in two steps, and how the same command continues."""

import json
from pathlib import Path


def test_two_steps_then_the_same_command_to_four(train, make_dataset, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "dataset", [1.0, 0.5, 0.25, 0.75], held_out=1)  # shares of a texture in use
    run = tmp_path / "run"
    command = ["--data.dataset", dataset, "--run.output_dir", run, "--run.train_batch_size", 2]
    command += ["--data.cache_dir", tmp_path / "cache", "--run.checkpointing_steps", 1]

    result = train(*command, "--run.max_train_steps", 2)
    assert result.returncode == 0, result.stderr
    assert "starts new" in result.stdout
    for file in ("config.yaml", "first_batch.png", "pytorch_lora_weights.safetensors", "README.md", "report.html"):
        assert (run / file).is_file(), file

    result = train(*command, "--run.max_train_steps", 4)
    assert result.returncode == 0, result.stderr
    assert "step-00000002" in result.stdout  # where it continued
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    held_out = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert set(held_out) == {0, 2, 4}
    assert held_out[4] != held_out[0]
