"""All of it in thirty lines, to read first: two steps, then the same command with more steps resumes to four."""

from texdiff.training.run import Run


def test_two_steps_then_resume_to_four(dataset, train, tmp_path):
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--run.train_batch_size", 2]
    run = Run(tmp_path / "run")

    first = train(*flags, "--run.max_train_steps", 2)
    assert first.returncode == 0, first.stderr
    assert "(starts new)" in first.stdout
    assert run.checkpoints() == [run.checkpoint_folder(2)]
    trained_twice = run.lora_file.read_bytes()

    second = train(*flags, "--run.max_train_steps", 4)
    assert second.returncode == 0, second.stderr
    assert f"continues from {run.checkpoint_folder(2)}" in second.stdout
    assert [line["step"] for line in run.metrics() if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in run.metrics() if "validation_loss" in line] == [0, 2, 4]
    assert run.lora_file.read_bytes() != trained_twice
    assert run.report_file.is_file()
    assert run.is_finished
