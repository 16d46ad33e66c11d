"""train_texture.py with repeatable kernels, which kills itself after a number of steps where it is told to.

python tests/gpu/killed_run.py STEP|never FLAG ...
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

import train_texture
from texdiff.training.run.stop_signals import StopSignals


def main() -> None:
    last, words = sys.argv[1], sys.argv[2:]
    torch.use_deterministic_algorithms(True)
    check = StopSignals.check

    def watched(stop: StopSignals, done: int) -> None:
        check(stop, done)
        if str(done) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    StopSignals.check = watched  # type: ignore[method-assign]
    sys.argv = ["train_texture.py", *words]
    train_texture.main()


if __name__ == "__main__":
    main()
