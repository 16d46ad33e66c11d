"""A run in object storage: it is trained in a folder of the user's cache, and what is new there is sent as it comes.

A connection that breaks meanwhile does not end the run: each checkpoint is complete on the disk, and what could not be
sent is sent with the next one. Only at the end is it an error, as that is when the storage is to have everything.
"""

import hashlib
import sys
import time
from typing import TYPE_CHECKING, Literal

from texdiff import storage
from texdiff.errors import InputError, one_line
from texdiff.files import atomic_folder, slug
from texdiff.models.exports import BEST_FILE, CHECKPOINTS
from texdiff.storage.mirror import Mirror, TakenOver

if TYPE_CHECKING:
    from texdiff.training.parallel import Parallel

SUMS = "SHA256SUMS"
After = Literal["start", "figures", "validation", "checkpoint"]
_LINES = 60.0  # seconds from one time that figures alone are sent to the next


class RunStorage:
    """Where a run is in storage, and the folder here that it is trained in."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        digest = hashlib.sha256(self.address.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        name = f"{slug(self.address.rpartition('/')[2])}-{digest}"
        self.folder = storage.default_cache_dir() / "runs" / name
        self.mirror = Mirror(self.folder, self.address, (SUMS, BEST_FILE, "model_index.json"), marked=CHECKPOINTS)
        self.begun = False
        self._failing, self._sent = False, 0.0

    @classmethod
    def choose(cls, address: str, resume: str) -> "RunStorage":
        """The run at this address, with its folder here as it is there, or newer; with `never` one at NAME-2, NAME-3,
        ... where the address is in use. For rank 0 alone."""
        found, number = cls(address), 2
        if resume == "never":
            while any(found.folder.glob("[!.]*")) or storage.find(found.address):
                found = cls(f"{address.rstrip('/')}-{number}")
                number += 1
            storage.check_writable(found.address)
            return found
        there = storage.find(found.address)
        dataset = "audit.html" in there  # or the beginning of one
        if there and (dataset or not {"config.yaml", ".writer"} & there.keys()):
            raise InputError(f"run.output_dir: {address} holds other files and no run; name a new folder, or empty it")
        storage.check_writable(found.address)
        found.mirror.bring()
        return found

    def share(self, checkpoint: str | None, parallel: "Parallel") -> None:
        """Have the checkpoint of this name on every machine. Every rank must call it."""
        if parallel.world == 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        ranks = parallel.together(self.folder)
        if not any(parallel.gather([0 not in ranks])) or checkpoint is None:
            return
        name, problem = f"{CHECKPOINTS}/{checkpoint}", ""
        parallel.decide(lambda: self._send_checkpoint(name))
        if 0 not in ranks and ranks[0] == parallel.rank:
            try:
                there = storage.find(storage.join(self.address, name))
                with atomic_folder(self.folder / name) as aside:
                    storage.download_files(storage.join(self.address, name), [*there], aside)
            except (InputError, OSError) as error:
                problem = f"{parallel.place}: {one_line(error)}"
        if problems := [said for said in parallel.gather([problem]) if said]:
            raise InputError(problems[0])

    def _send_checkpoint(self, name: str) -> None:
        if self.mirror.lacks(name):
            self.mirror.begin()
            self.mirror.send()

    def begin(self) -> None:
        """Say in storage that this process is the one that writes there now. Raises InputError where it cannot."""
        self.mirror.begin()
        self.begun = True

    def send(self, after: After) -> None:
        """Send what is new. A storage that cannot be reached is said, once, and asked again at the next checkpoint.
        Raises TakenOver where another process writes there."""
        too_soon = after == "figures" and time.monotonic() < self._sent + _LINES
        if too_soon or (self._failing and after != "checkpoint"):
            return
        said, problem = "", self._problem_in_sending()
        if problem and not self._failing:
            said = f"{problem}; training goes on, and the next checkpoint tries again. All is kept in {self.folder}"
        elif self._failing and not problem:
            said = f"{self.address}: has all again"
        if said:
            print(said, file=sys.stderr, flush=True)
        self._failing, self._sent = bool(problem), time.monotonic()

    def finish(self) -> None:
        """Send what is left. Raises ConnectionBroken where that cannot be done."""
        if not self.begun:
            return
        if problem := self._problem_in_sending():
            raise storage.ConnectionBroken(
                f"{problem}; nothing is lost: all is in {self.folder}, from where the same command sends it"
            )

    def _problem_in_sending(self) -> str:
        """Send what is new, and return in one line why not all could be sent, '' where it was. Raises TakenOver."""
        try:
            self.mirror.send()
        except TakenOver:
            raise
        except (InputError, OSError) as error:
            return one_line(error)
        return ""
