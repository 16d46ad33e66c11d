"""What only a GPU can show. Without one, every test here is skipped.

    python -m pytest tests/gpu -q -n 6 -W default --durations=25

TEXDIFF_TEST_GPU_ON_CPU=1 takes the CPU for the GPU, to try the tests themselves where there is none: what needs CUDA
stays skipped.
"""

import fcntl
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_runs import ON_CPU, RESOLUTION

HERE = Path(__file__).parent
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product; it makes them repeatable


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs_cuda: nothing of it can be tried on a CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE not in item.path.parents:
            continue
        # The libraries warn of each other's deprecations, on a GPU of others than on a CPU, and here a warning would
        # cost the rest of a test that nobody can soon run again. test_gpu_precision.py looks at texdiff's own.
        item.add_marker(pytest.mark.filterwarnings("default"))
        if ON_CPU and item.get_closest_marker("needs_cuda"):
            item.add_marker(pytest.mark.skip(reason="nothing of it can be tried on a CPU"))
        elif not ON_CPU and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATASET of the demo's meshes, made once for all of pytest's processes: 7 to train on, 2 held out."""
    from texdiff.data.prepare import prepare_dataset
    from texdiff.demo.make import write_meshes

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / "demo"
        if not (folder / "dataset/README.md").exists():
            write_meshes(folder / "meshes", count=9, seed=0, size=RESOLUTION)
            print(prepare_dataset([str(folder / "meshes")], folder / "dataset", validation_fraction=0.2, workers=2))
    return folder / "dataset"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """What a run switches on for its process, and its memory, are not the next test's."""
    torch.set_num_threads(2)  # what runs on the CPU beside it shares that with other tests
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture
def true_float32(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products without TF32, which would round their factors to 11 bits."""
    from texdiff.training import speed

    def off() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def speed_up_without(*given: Any, **named: Any) -> Any:
        trainable = speed_up(*given, **named)
        off()
        return trainable

    def record_without(*given: Any, **named: Any) -> None:  # what is recorded stays as it is
        off()
        record_graphs(*given, **named)

    speed_up, record_graphs = speed.speed_up, speed.record_graphs
    off()
    monkeypatch.setattr(speed, "speed_up", speed_up_without)
    monkeypatch.setattr(speed, "record_graphs", record_without)


@pytest.fixture
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any, int], None]], None]:
    """`after_each_step(do)` has `do(checkpointer, done)` called once a step and all that follows it is done."""
    from texdiff.training.run.checkpoint import Checkpointer
    from texdiff.training.run.stop_signals import StopSignals

    def watch(do: Callable[[Any, int], None]) -> None:
        check, resume, found, first = StopSignals.check, Checkpointer.resume, [], []

        def resumed(checkpointer: Any) -> int:
            found.append(checkpointer)
            first.append(resume(checkpointer))
            return first[-1]

        def watched(stop: Any, done: int) -> None:
            check(stop, done)
            if done > first[-1]:
                do(found[-1], done)

        monkeypatch.setattr(Checkpointer, "resume", resumed)
        monkeypatch.setattr(StopSignals, "check", watched)

    return watch


@pytest.fixture
def loss_scale(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`loss_scale(scale)` has float16's gradients scaled by that at first."""
    import accelerate.accelerator

    def begin_with(scale: float) -> None:
        make = accelerate.accelerator.get_grad_scaler
        patched = lambda *given, **named: make(*given, **named | {"init_scale": scale})  # noqa: E731
        monkeypatch.setattr(accelerate.accelerator, "get_grad_scaler", patched)

    return begin_with
