"""What signals do to the program: noted, raised where that is safe, put back; the end is done however it comes."""

import contextlib
import signal
from pathlib import Path

import pytest
import torch

from texdiff.errors import InputError
from texdiff.training.run import Run
from texdiff.training.run import stop_signals as stopping
from texdiff.training.run.stop_signals import Stopped, StopSignals


def test_signals_are_noted_raised_and_put_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    left = []
    with pytest.raises(SystemExit) as ended, StopSignals() as stop:  # noqa: PT012
        stop.finish_steps(left.append)
        stop.check(1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # an echo
        with pytest.raises(Stopped), stop.breaking_off():
            left.append("never")
        stop.check(2)
        left.append("never")
    assert ended.value.code == 0
    assert left == [2]
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr()
    assert "SIGTERM: stops after this step" in said.err
    assert "stopped after 2 steps (SIGTERM); this continues:" in said.out


@pytest.mark.parametrize(("in_between", "raised"), [("", RuntimeError), ("SIGTERM", Stopped)])
def test_what_became_of_another_rank_is_said_whenever_the_launchers_signal_comes(
    in_between, raised, monkeypatch, capsys
):
    """torchrun sends SIGTERM to the ranks that are left; it must not end one before it has said why."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    codes = []
    monkeypatch.setattr(stopping, "_exit", codes.append)
    with pytest.raises(raised), StopSignals() as stop:  # noqa: PT012
        stop.at_end(lambda: signal.raise_signal(signal.SIGTERM))
        try:
            raise RuntimeError("[gloo] Connection closed by peer")
        finally:
            if in_between:  # at start-up, where a signal breaks off what is being done
                signal.raise_signal(signal.SIGTERM)
    assert codes == [0]
    assert "process 0 stops, since another process of this run has ended" in capsys.readouterr().err


def test_a_rank_that_is_stopped_as_it_starts_says_what_that_may_mean(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stopping, "_exit", lambda code: None)
    with pytest.raises(Stopped), StopSignals():
        signal.raise_signal(signal.SIGTERM)
    assert "(SIGTERM, which a launcher sends too when another process of the run has ended)" in capsys.readouterr().out


@pytest.mark.parametrize("error", [None, InputError("wrong"), Stopped(2)])
def test_what_is_left_for_the_end_is_done_however_it_comes(error, capsys):
    done = []

    def write():
        done.append("report")
        raise InputError("the disk is full")  # said, and in nobody's way

    with contextlib.suppress(InputError, SystemExit), StopSignals() as stop:
        stop.at_end(write)
        if error is not None:
            raise error
    assert done == ["report"]
    assert "the disk is full" in capsys.readouterr().err


def test_a_block_is_broken_off_where_it_is_and_nothing_else(capsys):
    with StopSignals() as stop:
        stop.finish_steps(lambda done: None)
        with pytest.raises(Stopped), stop.breaking_off():
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)  # outside of it, nothing is raised
    with pytest.raises(SystemExit), StopSignals("never") as stop:  # noqa: PT012
        stop.run = Run(Path("a run-2"))
        signal.raise_signal(signal.SIGTERM)
    assert capsys.readouterr().out.rstrip().endswith("--run.resume auto --run.output_dir 'a run-2'")


def test_a_full_memory_is_one_line():
    with pytest.raises(InputError, match=r"^the machine's memory is full; lower run\.train_batch_size"), StopSignals():
        torch.empty(1 << 60, dtype=torch.uint8)


def test_errors_of_the_file_system_are_one_line():
    with (
        pytest.raises(InputError, match=r"No space left on device \(run/file\); what was written before is complete"),
        StopSignals(),
    ):
        raise OSError(28, "No space left on device", "run/file")
    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = 1 / 0
