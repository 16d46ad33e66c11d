"""Several runs of train_texture.py in one process, so that torch is imported once: arguments as JSON lists of words.

python tests/support/several_runs.py '[["--run.seed", "1"], ...]' [PORT ...]

Words such as NAME=value before a run's flags set its environment. The first that does not end well ends them all, with
its exit code. Under torchrun every rank does the same, and each run needs a free port of its own.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate.state import AcceleratorState, GradientState

import train_texture


def main() -> None:
    runs, ports = json.loads(sys.argv[1]), sys.argv[2:]
    for number, words in enumerate(runs):
        environment = [word for word in words if word[0].isupper()]
        os.environ |= dict(word.split("=") for word in environment)
        sys.argv = ["train_texture.py", *words[len(environment) :]]
        if "WORLD_SIZE" in os.environ:
            # The launcher's store still has what the ranks of the run before told each other, so each run has its own.
            os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": ports[number]}
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        train_texture.main()


if __name__ == "__main__":
    main()
