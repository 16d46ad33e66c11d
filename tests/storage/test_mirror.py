import shutil
from pathlib import Path

import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.storage.copies import local_folder
from texdiff.storage.mirror import Mirror, TakenOver

PLACE = "flaky://bucket/run"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    FlakyFileSystem.clean()
    storage._Said.failing = False
    monkeypatch.setattr(storage, "WAITS", ())


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def mirror(folder: Path) -> Mirror:
    return Mirror(folder, PLACE, ("sums",), marked="steps")


def sent(folder: Path) -> Mirror:
    one = mirror(folder)
    one.begin()
    one.send()
    return one


def stored() -> dict[str, str]:
    return {name: storage.read(f"{PLACE}/{name}").decode() for name in storage.find(PLACE) if name != ".writer"}


def changes() -> list[tuple[str, str]]:
    """What was written and deleted, in order, since it was asked before."""
    found = [(function, path.rpartition("bucket/run/")[2]) for function, path in FlakyFileSystem.calls]
    FlakyFileSystem.calls.clear()
    return [call for call in found if call[0] in ("put_file", "rm_file")]


def test_only_what_has_changed_is_sent_and_markers_come_last(tmp_path):
    write(tmp_path, a="1", steps__1__sums="s", steps__1__x="x", **{".hidden": "no"})
    one = sent(tmp_path)
    assert stored() == {"a": "1", "steps/1/sums": "s", "steps/1/x": "x"}
    assert changes()[-1] == ("put_file", "steps/1/sums")
    one.send()
    (tmp_path / "a").write_text("1")  # the same once more
    one.send()
    assert changes() == []
    write(tmp_path, steps__1__x="y", steps__1__sums="t")
    one.send()
    assert changes() == [("rm_file", "steps/1/sums"), ("put_file", "steps/1/x"), ("put_file", "steps/1/sums")]
    (tmp_path / "steps/1/x").unlink()
    write(tmp_path, steps__1__sums="u")  # which says so
    one.send()
    assert changes() == [("put_file", "steps/1/sums"), ("rm_file", "steps/1/x")]
    (tmp_path / "steps/1/sums").unlink()
    one.send()
    assert stored() == {"a": "1"}


@pytest.mark.parametrize("first", range(8))
def test_wherever_a_connection_breaks_a_marker_stands_for_what_is_there(tmp_path, first):
    write(tmp_path, steps__1__x="1", steps__1__y="1", steps__1__sums="1")
    one = sent(tmp_path)

    def send_twice():
        one.send()
        one.send()

    write(tmp_path, steps__1__x="2", steps__1__y="2", steps__1__sums="2", steps__2__x="2", steps__2__sums="2")
    calls = len(FlakyFileSystem.calls)
    original = FlakyFileSystem._answer

    def cut_after(self, function, path):
        if len(FlakyFileSystem.calls) - calls >= first:
            FlakyFileSystem.cut()
        original(self, function, path)

    FlakyFileSystem._answer = cut_after
    try:
        with pytest.raises(storage.ConnectionBroken):
            send_twice()
    finally:
        FlakyFileSystem._answer = original
        FlakyFileSystem.cut(0)
    there = stored()
    for step in ("1", "2"):
        if (mark := there.get(f"steps/{step}/sums")) is not None:
            assert {there[f"steps/{step}/x"], there.get(f"steps/{step}/y", mark)} == {mark}
    again = mirror(tmp_path)  # another process continues
    again.bring()
    again.begin()
    again.send()
    assert stored() == {f"steps/{at}": "2" for at in ("1/x", "1/y", "1/sums", "2/x", "2/sums")}


def test_a_folder_is_brought_to_where_it_is_not(tmp_path):
    write(tmp_path / "one", a="1", steps__1__x="x", steps__1__sums="s")
    sent(tmp_path / "one")
    storage.write(f"{PLACE}/steps/2/x", b"begun")
    two = mirror(tmp_path / "two")
    two.bring()
    assert {path.name for path in (tmp_path / "two/steps").iterdir()} == {"1"}
    write(tmp_path / "two", a="2")
    two.begin()
    two.send()
    assert stored() == {"a": "2", "steps/1/x": "x", "steps/1/sums": "s"}
    one = mirror(tmp_path / "one")  # where nothing was done since, so that nothing is to be kept
    one.bring()
    assert (tmp_path / "one/a").read_text() == "2"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_what_was_never_sent_is_kept_where_somebody_else_went_on(tmp_path, capsys):
    write(tmp_path / "one", a="1")
    one = sent(tmp_path / "one")
    two = mirror(tmp_path / "two")
    two.bring()
    two.begin()
    write(tmp_path / "one", a="1b")
    with pytest.raises(TakenOver, match="another process has begun to write there; what this one has done is in"):
        one.send()
    assert stored() == {"a": "1"}
    one = mirror(tmp_path / "one")
    one.bring()
    assert (tmp_path / "one/a").read_text() == "1"
    assert (tmp_path / "one-unsent-1/a").read_text() == "1b"
    assert "what was not sent there is kept in" in capsys.readouterr().err


def test_a_place_that_was_emptied_is_a_new_one_and_what_was_never_there_is_not(tmp_path):
    write(tmp_path, a="1")
    mirror(tmp_path).bring()
    assert (tmp_path / "a").exists()
    sent(tmp_path)
    for name in storage.find(PLACE):
        storage.remove(f"{PLACE}/{name}")
    mirror(tmp_path).bring()
    assert not tmp_path.exists() or not (tmp_path / "a").exists()


def test_a_folder_stays_as_it_was_where_storage_cannot_be_read(tmp_path):
    write(tmp_path / "one", a="1")
    sent(tmp_path / "one")
    write(tmp_path / "two", b="2")
    for function in ("find", "cat_file", "get_file"):
        FlakyFileSystem.cut(of=(function,))
        with pytest.raises(storage.ConnectionBroken):
            mirror(tmp_path / "two").bring()
        assert [path.name for path in tmp_path.rglob("*") if path.name[0] != "."] == ["one", "two", "a", "b"]


@pytest.mark.parametrize("fetch", [lambda folder: mirror(folder).bring(), lambda folder: local_folder(PLACE)])
def test_what_goes_while_it_is_fetched_is_done_without(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "here", a="1", **{f"steps__{step}__{name}": "x" for step in (1, 2) for name in ("sums", "x")})
    one = sent(tmp_path / "here")
    get_file = FlakyFileSystem.get_file

    def get(self, rpath, lpath, *args, **kwargs):
        if (tmp_path / "here/steps/1").exists():
            shutil.rmtree(tmp_path / "here/steps/1")
            one.send()
        return get_file(self, rpath, lpath, *args, **kwargs)

    monkeypatch.setattr(storage, "_AT_ONCE", 1)
    monkeypatch.setattr(FlakyFileSystem, "get_file", get)
    folder = fetch(tmp_path / "there") or tmp_path / "there"
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file())
    assert found == ["a", "steps/2/sums", "steps/2/x"]


def test_all_of_a_place_is_replaced(tmp_path):
    write(tmp_path / "one", a="1", b="1", sums="1")
    sent(tmp_path / "one")
    changes()
    write(tmp_path / "two", a="2", c="not sent", sums="2")
    two = Mirror(tmp_path / "two", PLACE, ("sums",), replaces=True, without=["c"], notes=tmp_path / "notes.json")
    two.begin()
    two.send()
    assert stored() == {"a": "2", "sums": "2"}
    assert changes()[:2] == [("rm_file", "sums"), ("rm_file", "a")]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"a", "c", "sums"}
