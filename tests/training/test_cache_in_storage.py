"""A cache in storage gives what one on a disk gives, and another machine encodes nothing."""

import pytest

from texdiff.training.run import Run


@pytest.mark.slow
def test_a_cache_in_storage_is_one_on_a_disk_for_every_machine(train, dataset, tmp_path):
    there = tmp_path / "there"
    losses, texts, kept = [], [], []
    for name, cache in (("disk", tmp_path / "here"), ("first", f"file://{there}"), ("second", f"file://{there}")):
        flags = ["--data.dataset", dataset, "--data.cache_dir", cache, "--run.output_dir", tmp_path / name]
        flags += ["--data.unreadable", "skip", "--data.order", "blocks"]
        result = train(
            *flags,
            "--run.max_train_steps",
            2,
            "--run.train_batch_size",
            2,
            XDG_CACHE_HOME=str(tmp_path / f"{name}-xdg"),
        )
        assert result.returncode == 0, result.stderr
        losses.append([line["loss"] for line in Run(tmp_path / name).metrics() if "loss" in line])
        texts.append(result.stderr)
        kept.append({path: path.stat().st_mtime_ns for path in there.glob("*/*.arrow")})
    assert len(losses[0]) == 2
    assert losses[0] == losses[1] == losses[2]
    assert ["encoding textures" in text for text in texts] == [True, True, False]
    new = [path.parent.name for path, date in kept[2].items() if kept[1].get(path) != date]
    assert not [name for name in new if not name.startswith(("models-", "files-"))], new
    assert {path.name for path in kept[1] if path.parent.name.startswith("textures-")} > {"index.arrow"}
