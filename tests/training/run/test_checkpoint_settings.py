"""Checkpoints of other settings: what would train something else is refused by name, and nothing else is."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_run import CONFIG, a_run, saved

from texdiff.config import ModelConfig, OptimConfig, RunConfig
from texdiff.errors import InputError
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import MAY_CHANGE, newest_good


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return "other" if isinstance(value, str) else ["other"] if isinstance(value, list) else 1


def test_every_key_that_changes_the_result_is_refused_and_no_other(parallel, tmp_path):
    one = saved(parallel, tmp_path)
    before = one.state.settings
    for section in CONFIG.to_dict():
        for key, value in CONFIG.to_dict()[section].items():
            one.state.settings = before | {section: before[section] | {key: changed(value)}}
            if key in MAY_CHANGE.get(section, ()):
                assert one.state.load(newest_good(Run(tmp_path))) == 3
            else:
                with pytest.raises(InputError, match=rf"other settings \({section}\.{key}: "):
                    one.state.load(newest_good(Run(tmp_path)))
    known = {f"{section}.{key}" for section in CONFIG.to_dict() for key in CONFIG.to_dict()[section]}
    assert {f"{section}.{key}" for section, keys in MAY_CHANGE.items() for key in keys} <= known


def test_a_key_that_has_another_name_now_is_the_same_key(parallel, tmp_path):
    """A checkpoint of a version that knew it by the old one."""
    one = saved(parallel, tmp_path)
    optim = dict(one.state.settings["optim"])
    now = one.state.settings
    one.state.settings = now | {"optim": {"in_backward": optim.pop("fused_backward_pass")} | optim}
    one.state.save(4)
    one.state.settings = now
    assert one.state.load(newest_good(Run(tmp_path))) == 4
    one.state.settings = now | {"optim": optim | {"fused_backward_pass": True}}
    with pytest.raises(InputError, match=r"optim\.fused_backward_pass: False, now True"):
        one.state.load(newest_good(Run(tmp_path)))


def test_a_key_that_is_newer_than_a_checkpoint_was_its_default(parallel, tmp_path):
    one = saved(parallel, tmp_path)
    now = one.state.settings
    data = {key: value for key, value in now["data"].items() if key != "max_token_length"}
    one.state.settings = now | {"data": data}
    one.state.save(4)
    one.state.settings = now
    assert one.state.load(newest_good(Run(tmp_path))) == 4
    one.state.settings = now | {"data": data | {"max_token_length": 150}}
    with pytest.raises(InputError, match=r"data\.max_token_length: 77, now 150"):
        one.state.load(newest_good(Run(tmp_path)))


def test_a_base_may_move_as_long_as_it_is_the_same(parallel, base, tmp_path):
    first = shutil.copytree(base, tmp_path / "first")
    config = replace(CONFIG, model=ModelConfig(pretrained_model_name_or_path=str(first)))
    saved(parallel, tmp_path / "run", config=config)
    checkpoint = newest_good(Run(tmp_path / "run"))
    second = first.rename(tmp_path / "second")
    moved = replace(CONFIG, model=ModelConfig(pretrained_model_name_or_path=str(second)))
    one = a_run(parallel, tmp_path / "run", moved)
    assert one.state.load(checkpoint) == 3
    one.step()
    one.state.save(4)
    again = a_run(parallel, tmp_path / "run", moved)
    assert again.state.load(newest_good(Run(tmp_path / "run"))) == 4
    # Another base there, under either name, none there, and a checkpoint of before bases were looked at.
    refused = "other settings .model.pretrained_model_name_or_path: "
    with (second / "unet/config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match=refused):
        one.state.load(checkpoint)
    with pytest.raises(InputError, match=f"{refused}the files in {second}"):
        again.state.load(tmp_path / "run/checkpoints/step-00000004")
    with pytest.raises(InputError, match=refused):
        a_run(parallel, tmp_path / "run").state.load(checkpoint)
    shutil.copytree(base, second, dirs_exist_ok=True)
    assert one.state.load(checkpoint) == 3
    progress = json.loads((checkpoint / "progress.json").read_text())
    assert progress.pop("base")
    (checkpoint / "progress.json").write_text(json.dumps(progress))
    with pytest.raises(InputError, match=refused):
        one.state.load(checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "another"}, "dataset.content"),
        ({"effective_batch": 8}, "effective batch: 4, now 8"),
        ({"width": 5}, "does not fit this model"),
        ({"config": replace(CONFIG, optim=OptimConfig(lr_scheduler="linear"))}, "optim.lr_scheduler"),
        ({"config": replace(CONFIG, data=replace(CONFIG.data, order="blocks"))}, "data.order: rows, now blocks"),
    ],
)
def test_another_dataset_batch_or_model_is_refused(change, said, parallel, tmp_path):
    saved(parallel, tmp_path)
    with pytest.raises(InputError, match=said):
        a_run(parallel, tmp_path, **change).state.load(newest_good(Run(tmp_path)))


def test_a_schedule_that_is_stretched_over_the_run_fixes_its_length(parallel, tmp_path):
    cosine = OptimConfig(lr_scheduler="cosine")
    saved(parallel, tmp_path, config=replace(CONFIG, optim=cosine))
    longer = replace(CONFIG, optim=cosine, run=RunConfig(max_train_steps=2000, report_to="none"))
    with pytest.raises(InputError, match=r"run\.max_train_steps: 1000, now 2000"):
        a_run(parallel, tmp_path, longer).state.load(newest_good(Run(tmp_path)))


def test_another_layout_net_in_its_place_is_refused(parallel, tmp_path):
    """Adapters are trained under it, so it may not change; a checkpoint of before it was looked at says nothing."""
    one, about = saved(parallel, tmp_path), {"texdiff.layout.fingerprint": "this one"}
    one.state.export = SimpleNamespace(trainable=SimpleNamespace(about=about), checkpoint=lambda: None)
    assert one.state.load(newest_good(Run(tmp_path))) == 3
    one.state.save(4)
    assert one.state.load(newest_good(Run(tmp_path))) == 4
    about["texdiff.layout.fingerprint"] = "another"
    with pytest.raises(InputError, match=r"other settings \(layout\.init: the weights in "):
        one.state.load(newest_good(Run(tmp_path)))
