"""The benchmarks' own arithmetic, and that programs under the clock never work at the same time."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package

from benchmarks import groups, step_table, torchvision_stand_in  # noqa: E402
from benchmarks.floor import step_flops  # noqa: E402
from benchmarks.gpu import Record, Row, in_time, wanted  # noqa: E402
from benchmarks.turns import Program, ProgramFailed, take_turns  # noqa: E402

SCRIPT = """
import sys, threading, time, torch

def prepare():
    while True:
        with open(sys.argv[1] + ".background", "a") as file:
            print(time.monotonic(), file=file)
        time.sleep(0.005)

threading.Thread(target=prepare, daemon=True).start()
weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
optimizer = torch.optim.SGD(weights)
for_one = torch.optim.SGD(weights[:1])
for number in range(int(sys.argv[2])):
    with open(sys.argv[1], "a") as file:
        print(time.monotonic(), file=file)
        time.sleep(float(sys.argv[3]))
        print(time.monotonic(), file=file)
    every, optimizer.param_groups = optimizer.param_groups, for_one.param_groups
    optimizer.step()  # as in the backward pass, for one weight: no step of its own
    optimizer.param_groups = every
    optimizer.step()
print("the end", *map(str, sys.argv), flush=True)
sys.exit(int(sys.argv[4]))
"""


def toy(
    folder: Path, name: str, steps: int, seconds: float, code: int = 0, turns: int = 3, turn_steps: int = 2
) -> Program:
    script = folder / "toy.py"
    script.write_text(SCRIPT, "utf-8")
    arguments = [str(script), str(folder / f"{name}.times"), str(steps), str(seconds), str(code)]
    return Program(
        name,
        lambda clock: [sys.executable, "-m", "benchmarks.clock", *clock, *arguments],
        turns,
        turn_steps,
        environment={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_programs_take_turns(tmp_path):
    slow, quick = toy(tmp_path, "slow", 7, 0.06), toy(tmp_path, "quick", 7, 0.02)
    measured = take_turns([slow, quick], tmp_path)
    spans = [
        (*span, name) for name in measured for span in np.loadtxt(tmp_path / f"{name}.times").reshape(-1, 2).tolist()
    ]
    spans.sort()
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert [name for *_, name in spans] == ["slow", "quick"] + (["slow"] * 2 + ["quick"] * 2) * 3
    # What quick prepares in the background does not go on while slow has its turn.
    background = np.loadtxt(tmp_path / "quick.times.background", ndmin=1)
    assert len(background) > 10
    slows = [(start, end) for start, end, name in spans[1:] if name == "slow"]
    assert not any(((background > start + 0.01) & (background < end)).any() for start, end in slows)
    for name, seconds in (("slow", 0.06), ("quick", 0.02)):
        result = measured[name]
        assert len(result.turns) == 3
        assert min(result.turns) >= seconds
        assert len(result.processor) == 3
        assert 0 < min(result.processor) < seconds  # it sleeps
        assert result.first_step > result.launcher > 0
        worked = result.first_step + 2 * sum(result.turns)
        assert worked <= result.total
        assert result.peak_memory > 50e6
        assert result.threads == 1
    # The time in which the other one worked is not its own.
    waited = json.loads((tmp_path / "quick.jsonl").read_text().splitlines()[3])["waited"]
    assert waited >= 3 * 2 * 0.06


def test_a_program_is_killed_after_its_last_turn_where_its_end_does_not_matter(tmp_path):
    endless = replace(toy(tmp_path, "endless", 10**6, 0.02), to_the_end=False)
    measured = take_turns([endless], tmp_path)["endless"]
    assert len(measured.turns) == 3
    assert measured.peak_memory > 50e6
    assert "the end" not in (tmp_path / "endless.log").read_text()


@pytest.mark.slow
def test_a_program_that_fails_says_why(tmp_path):
    with pytest.raises(ProgramFailed, match=r"(?s)bad: stopped with exit code 3.*the end"):
        take_turns([toy(tmp_path, "bad", 7, 0, code=3)], tmp_path)
    with pytest.raises(ProgramFailed, match="short: stopped with exit code 0"):
        take_turns([toy(tmp_path, "short", 2, 0)], tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_group_norm_backward", "normalisation"),
        ("aten::addmm", "linear"),
        ("aten::mm", "linear"),
        ("aten::bmm", "linear"),
        ("aten::silu_", groups.REST),
        ("autograd::engine::evaluate_function: AddmmBackward0", None),
        ("benchmark: optimiser", None),
    ],
)
def test_operations_have_groups(name, kind):
    assert groups.group(name) == kind


def test_a_profile_adds_up():
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Linear(14, 16))
    optimizer = torch.optim.AdamW(layers.parameters())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layers(torch.randn(2, 3, 16, 16)).sum().backward()
        with torch.profiler.record_function(groups.OPTIMIZER):
            optimizer.step()
    seconds = groups.seconds_by_group(profile.events())
    assert all(seconds[kind] > 0 for kind in ("convolution", "normalisation", "linear", "optimiser", groups.REST))
    assert seconds["attention"] == 0
    own = sum(event.self_cpu_time_total for event in profile.events() if "::" in event.name) / 1e6
    assert 0.5 * own < sum(seconds.values()) <= sum(e.self_cpu_time_total for e in profile.events()) / 1e6


def test_transforms_stand_in_for_torchvisions():
    transforms = torchvision_stand_in
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    both = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    expected = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(both(picture).numpy(), expected, atol=1e-6)
    assert transforms.Resize(20, transforms.InterpolationMode.LANCZOS)(picture).size == (30, 20)
    assert transforms.Resize(40)(picture) is picture
    np.testing.assert_array_equal(np.asarray(transforms.CenterCrop(40)(picture)), pixels[:, 10:50])
    crop = np.asarray(transforms.RandomCrop(40)(picture))
    assert any(np.array_equal(crop, pixels[:, left : left + 40]) for left in range(21))
    mirrored = {np.asarray(transforms.RandomHorizontalFlip()(picture)).tobytes() for _ in range(30)}
    assert mirrored == {pixels.tobytes(), pixels[:, ::-1].tobytes()}


def test_operations_grow_with_the_batch(tmp_path):
    from texdiff.models.nano import nano_folder

    folder = str(nano_folder())
    lora = step_flops(folder, 64, 1, 8)
    assert step_flops(folder, 64, 2, 8) == 2 * lora
    assert lora < step_flops(folder, 64, 1, 0)


def program(turns: list[float], peak: float, **more: object) -> dict[str, object]:
    return {"turns": turns, "peak_memory": peak, "first_step": 9.0, "launcher": 2.0, "total": 30.0, **more}


def test_the_table_holds_ratios():
    parts = ("attention", "optimiser")
    part = {
        "title": "a base", "resolution": 512, "batch": 1, "textures": 4, "turns": 3, "turn_steps": 1, "steps": 4,
        "seconds": 60, "load_average_before": 0.1, "share_of_cores_used_by_others": 0.02,
        "covered_cells": {"bare": 600.0, "texdiff": 600.0, "texdiff-first-run": 600.0, "diffusers": 660.0},
        "floor": {"flops": 2e12, "flops_per_second": 1e11, "seconds": 20.0},
        "programs": {
            "bare": program([2.0, 4.0, 3.0], 1e9),
            "texdiff": program([3.0, 3.3, 3.3], 1.5e9),
            "texdiff-first-run": program([4.0, 4.0], 2e9, profile=dict.fromkeys(parts, 1.0)),
            "diffusers": program([6.6, 6.0, 9.0], 3e9),
        },
    }  # fmt: skip
    record = {"machine": "M", "threads": 2, "versions": {"torch": "2"}, "parts": {"x": part}}
    lines = step_table.markdown(record).splitlines()
    assert "| median / bare | 1.000 | 1.100 |  | 2.200 |" in lines
    assert "| median / texdiff, cached | 0.91 | 1.00 |  | 2.00 |" in lines
    assert "| covered latent cells a second | 200 | 182 |  | 100 |" in lines
    assert "| peak memory / bare | 1.000 | 1.500 |  | 3.000 |" in lines
    assert lines[-3:] == [
        "| attention | optimiser | outside operations |",
        "|---|---|---|",
        "| 25.0% | 25.0% | 50.0% |",
    ]


ABOUT = {
    "device": "G", "title": "t", "peak": 1e12, "measured_peak": 5e11, "versions": {"torch": "2", "diffusers": "0"},
}  # fmt: skip


def test_a_gpu_row_replaces_the_older_one(tmp_path):
    record = Record(tmp_path, ABOUT, {"lora": 1e10, "full": 2e10})
    row = Row("texdiff", "lora", "none", 4)
    record.write(row, {"failed": "out of memory"})
    figures = {"step": 0.5, "ready": 9.0, "images_per_second": 8.0, "peak_gpu_memory": 7 * 10**9}
    record.write(row, figures)
    record.write(Row("bare", "lora", "none", 4), figures | {"step": 0.4, "images_per_second": 10.0})
    record.write(row._replace(batch=8), {"failed": "out of memory"})
    again = Record(tmp_path, ABOUT, record.flops)  # a later call goes on with the same table
    assert again.content["rows"] == record.content["rows"]
    assert not Record(tmp_path, ABOUT | {"device": "another"}, record.flops).content["rows"]
    table = (tmp_path / "gpu.md").read_text().splitlines()
    assert table[-3:] == [
        "| lora | none | 4 | bare | 10 | 1.000 | 10.0% | 20.0% | 400 | 9.0 | 7.00 |",
        "| lora | none | 4 | texdiff | 8 | 1.250 | 8.0% | 16.0% | 500 | 9.0 | 7.00 |",
        "| lora | none | 8 | texdiff | out of memory |  |  |  |  |  |  |",
    ]


def test_adapters_come_first_in_the_table_and_compiled_blocks_last():
    rows = wanted([16, 1], peer=True, compiled=True)
    assert [row.train for row in rows[:6]] == ["lora"] * 4 + ["full"] * 2
    assert [row.program for row in rows[:6]] == ["bare", "texdiff"] * 2 + ["texdiff"] * 2
    assert {row.switch for row in rows[-4:]} == {"compile"}
    assert len(set(rows)) == len(rows)


def test_larger_batches_are_left_out_where_one_does_not_fit_and_none_is_begun_late(tmp_path):
    record = Record(tmp_path, ABOUT, {"lora": 1e10, "full": 2e10})
    rows = [Row("texdiff", train, "none", batch) for batch in (4, 2, 8) for train in ("lora", "full")]
    fits = {"step": 1.0, "ready": 9.0, "images_per_second": 8.0, "peak_gpu_memory": None}
    done = []
    for row, _ in in_time(rows, record, time.monotonic(), 60):
        done.append(row)
        record.write(row, {"failed": "out of memory"} if row.train == "full" and row.batch == 4 else dict(fits))
    assert done == rows[:5]
    assert not list(in_time(rows, record, time.monotonic() - 61, 60))


@pytest.mark.slow
def test_the_gpu_benchmark_goes_its_whole_way(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--try_on_cpu", "--work", tmp_path / "work"]
    narrow = ["--batches", "2", "--peer", tmp_path / "none", "--output", tmp_path / "out"]
    done = subprocess.run([*command, *narrow], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {
        Row(*(row[key] for key in Row._fields)): row
        for row in json.loads((tmp_path / "out/gpu.json").read_text())["rows"]
    }
    assert set(rows) == set(wanted([2], peer=False, compiled=False))
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(2 / row["step"])
        assert 0 < row["of_measured"] < 1


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmarks.gpu: PyTorch finds no GPU here")
    assert len(done.stderr.splitlines()) == 1
