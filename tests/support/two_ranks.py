"""Ranks that see one folder and other disks beside it, and what they agree on.

torchrun --nproc_per_node 2 tests/support/two_ranks.py FOLDER

Rank 0 works in FOLDER/0, where there is a run with a checkpoint, and rank 1 in FOLDER/1, where there is none.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from texdiff.errors import InputError
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run


def refusal(of: Callable[[], object]) -> str:
    try:
        of()
    except InputError as error:
        return str(error)
    return ""


def main() -> None:
    parallel = Parallel()
    shared = Path(sys.argv[1])
    os.chdir(shared / str(parallel.rank))
    run = Run.choose(f"{shared}/0/run", "auto", 9, parallel)
    said = {
        "how": str(parallel),
        "chosen": [str(run.folder.relative_to(shared)), str(run.resume_from.relative_to(shared))],
        "decided": parallel.decide(lambda: Path("file").is_file()),
        "refused": refusal(lambda: Run.choose("file", "auto", 9, parallel)),
        "not_shared": [
            refusal(lambda: Run.choose("run", "auto", 9, parallel)),
            refusal(lambda: Run.choose("new/run", "auto", 9, parallel)),
        ],
        "not_alike": refusal(lambda: parallel.agree(str(parallel.rank), "data.dataset: the files")),
        "alike": refusal(lambda: parallel.agree("a", "data.dataset: the files")),
        "any": [parallel.any(False), parallel.any(parallel.rank == 1)],
        "gathered": parallel.gather([parallel.rank]),
        "share": [
            [0, 1, 2, 3, 4][parallel.share_of(cache)]
            for cache in (shared / "cache", Path("cache"), "s3://bucket/cache")
        ],
        "bucket_view": parallel.accelerator.ddp_handler.gradient_as_bucket_view,
    }
    parallel.wait()
    said["left"] = sorted(path.name for path in shared.rglob(".texdiff*"))
    Path("said.json").write_text(json.dumps(said))
    parallel.end()


if __name__ == "__main__":
    main()
