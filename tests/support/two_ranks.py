"""Two ranks that see different disks, and what they agree on.

torchrun --nproc_per_node 2 tests/support/two_ranks.py FOLDER

Rank 0 works in FOLDER/0, where there is a run with a checkpoint, and rank 1 in FOLDER/1, where there is none.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from texdiff.errors import InputError
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run


def main() -> None:
    parallel = Parallel()
    os.chdir(Path(sys.argv[1]) / str(parallel.rank))
    run = Run.choose("run", "auto", 9, parallel)
    try:
        Run.choose("file", "auto", 9, parallel)
    except InputError as error:
        refused = str(error)
    said = {
        "chosen": [str(run.folder), str(run.resume_from)],
        "refused": refused,
        "any": [parallel.any(False), parallel.any(parallel.rank == 1)],
        "gathered": parallel.gather([parallel.rank]),
        "share": [0, 1, 2, 3, 4][parallel.share],
        "bucket_view": parallel.accelerator.ddp_handler.gradient_as_bucket_view,
    }
    Path("said.json").write_text(json.dumps(said))
    parallel.end()


if __name__ == "__main__":
    main()
