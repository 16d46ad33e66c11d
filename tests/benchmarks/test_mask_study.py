"""The study of the mask: its statistics by hand, its conditions, and that the README says what its results say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.mask_study import __main__ as study
from benchmarks.mask_study import train
from benchmarks.mask_study.conditions import ARMS, BANDS, BASE, BOTH, FILL, FOUR, MASK, USUAL, Job, jobs
from benchmarks.mask_study.datasets import dataset, painted, prepare
from benchmarks.mask_study.judge import REAL, void_of
from benchmarks.mask_study.table import interval, reached
from benchmarks.mask_study.train import DRAWN, RESOLUTION, drawn_numbers
from texdiff.data.records import read_records
from texdiff.demo.make import write_meshes

ROOT = Path(__file__).parents[2]


def test_intervals_and_steps_by_hand() -> None:
    # Mean 3, standard deviation sqrt(2.5); t for 4 degrees of freedom is 2.776.
    assert interval([1, 2, 3, 4, 5]) == (3, pytest.approx(2.776 * 2.5**0.5 / 5**0.5))
    assert interval([0.5]) == (0.5, None)
    curve = {"60": [0.20, 1.0], "120": [0.10, 1.0], "180": [0.08, 1.0]}
    assert reached(curve, 0.15) == pytest.approx(90)
    assert reached(curve, 0.25) == 60  # it may have been there before
    assert reached(curve, 0.07) is None


def test_a_study_cut_short_has_the_main_setting_first() -> None:
    every = jobs(5)
    assert len({job.name for job in every}) == len(set(every)) == len(every)
    main = every[: 5 * (1 + len(FOUR))]
    assert {(job.void, job.band) for job in main} == {("black", "all")}
    assert {job.arm for job in every} == {BASE, *ARMS}
    assert [len({job.arm for job in main[: 5 * n]}) for n in range(1, 6)] == [5] * 5
    # What is painted over makes no difference once it is filled.
    assert all(ARMS[job.arm][0] == "keep" for job in every if job.void not in ("black", "found") and job.arm != BASE)


def test_voids_are_painted_and_islands_stay(tmp_path: Path) -> None:
    write_meshes(tmp_path / "meshes", count=8, seed=0, size=64)
    prepare(tmp_path / "meshes", tmp_path)
    found = {}
    for void in ("black", "magenta", "noise", "others", "found"):
        place = dataset(tmp_path, void, "thin", "train")
        records = read_records(str(place), "train")
        assert records
        found[void] = records[0].read()
    texture, mask = found["found"]
    for void, (other, same) in found.items():
        np.testing.assert_array_equal(same, mask)
        np.testing.assert_array_equal(other[mask], texture[mask])
        assert void == "found" or (other[~mask] != texture[~mask]).any()
    assert (found["black"][0][~mask] == 0).all()
    assert (found["magenta"][0][~mask] == (255, 0, 255)).all()
    assert found["noise"][0][~mask].std() > 70  # of uniform noise: 74
    np.testing.assert_array_equal(painted(tmp_path, "train", 0, "noise"), painted(tmp_path, "train", 0, "noise"))

    drawn = np.zeros((DRAWN, RESOLUTION, RESOLUTION, 3), np.uint8)
    drawn[: DRAWN // 4] = np.random.default_rng(0).integers(0, 256, drawn[: DRAWN // 4].shape)
    job = Job("black", "thin", "usual way", 0)
    (tmp_path / "drawn").mkdir()
    Image.fromarray(np.concatenate(drawn)).save(tmp_path / f"drawn/{job.name}.png")
    measured = void_of(job, tmp_path)
    assert measured == {"void": 0.75, "mesh": pytest.approx(0.75), "much": 0.75}
    assert drawn_numbers(1, 10)[:3] == [4, 5, 6]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # theirs
def test_one_command_makes_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study on a few meshes, with hardly a step; stopped half way and started again."""
    for name, value in {"STEPS": 4, "EVERY": 2, "ATLASES": 2, "SAMPLING_STEPS": 2}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setitem(BANDS, "all", (0.02, 0.98))
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "PICTURE", tmp_path / "picture.jpg")
    main = [job for job in jobs(2) if (job.void, job.band) == ("black", "all") and job.arm in (BASE, *FOUR)]
    write_meshes(tmp_path / "CC-0", count=12, seed=0, size=64)
    monkeypatch.setattr("sys.argv", ["mask_study", str(tmp_path / "CC-0"), "--folder", str(tmp_path / "study")])
    monkeypatch.setattr(study, "jobs", lambda seeds: main[:7])
    study.main()
    first = (tmp_path / "study/rows.jsonl").read_text("utf-8")
    monkeypatch.setattr(study, "jobs", lambda seeds: main)
    study.main()
    rows = (tmp_path / "study/rows.jsonl").read_text("utf-8")
    assert rows.startswith(first)
    assert len(rows.splitlines()) == 10
    found = json.loads((tmp_path / "mask_study.json").read_text("utf-8"))
    assert {one["seeds"] for arm, one in found["main"].items() if arm in (BASE, *FOUR)} == {2}
    assert found["renders"]["renders"] == 2 * DRAWN
    table = (tmp_path / "mask_study.md").read_text("utf-8")
    assert "| usual way | 2 | " in table
    assert Image.open(tmp_path / "picture.jpg").size[0] > 240


def test_the_readme_has_the_numbers_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/mask_study.json").read_text("utf-8"))
    readme = (ROOT / "README.md").read_text("utf-8")
    (said,) = re.findall(r"<!-- mask study -->(.*?)<!-- end -->", readme, re.DOTALL)
    numbers = re.findall(r"\d+(?:\.\d+)? %", said)
    shares = {arm: f"{100 * one['void'][0]:.1f} %" for arm, one in results["main"].items() if "void" in one}
    assert numbers == [shares[arm] for arm in (USUAL, MASK, FILL, BOTH, BASE, REAL)]
    assert results["main"][USUAL]["seeds"] >= 5
    assert f"| {USUAL} | {results['main'][USUAL]['seeds']} | {shares[USUAL][:-2]} ±" in (
        ROOT / "docs/LOG.md"
    ).read_text("utf-8")
    assert (ROOT / "docs/pictures/void_on_the_surface.jpg").stat().st_size < 300_000
