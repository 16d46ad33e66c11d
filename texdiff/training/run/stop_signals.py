"""How a run is stopped, and what it says when it ends before its last step.

SIGINT (Ctrl-C), SIGTERM, SIGHUP, which a closed terminal sends, and SIGUSR1, which clusters send ahead of their time
limit, let the step at hand be finished and a checkpoint be written, on every rank together; the program ends with exit
code 0 and the command that continues.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, TextIO

from texdiff.errors import InputError, full_memory, training_program

if TYPE_CHECKING:
    from texdiff.training.parallel import Parallel
    from texdiff.training.run import Run

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))  # Windows has two of them
OURS = {"texdiff", "texdiff.cli"}
LAUNCHERS = {"accelerate", "torchrun", "torch.distributed.run", "accelerate.commands.launch"} | OURS
BOUNCE = 1.0  # seconds in which a second Ctrl-C is the first one's echo: torchrun passes on what the terminal sent too


class Stopped(BaseException):
    """The run was asked to stop; its argument says after how many steps, if any. No Exception, so that no library
    takes it for an error of its own."""


class StopSignals:
    """Listens to the signals while its `with` block runs, and ends the program in order whatever ends the block.

    Until `finish_steps` a signal breaks off whatever is being done: start-up and encoding have nothing to save that is
    not saved already. From then on it is only noted, for `check` to act on, but in `breaking_off` blocks.
    """

    def __init__(self, resume: str = "auto") -> None:
        self.resume = resume
        self.run: Run | None = None  # once it is known
        self.received = ""
        self._since = 0.0
        self._breaks_off, self._ending = True, False
        self._save: Callable[[int], None] = lambda done: None
        self._at_end: list[Callable[[], object]] = []
        self._parallel: Parallel | None = None
        self._command, self._launcher = _launch_command()

    def __enter__(self) -> "StopSignals":
        # nohup has a closed terminal ignored: then it is meant to be.
        heard = [n for n in SIGNALS if signal.Signals(n).name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._receive) for number in heard}
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        return self

    def finish_steps(self, save: Callable[[int], None], parallel: "Parallel | None" = None) -> None:
        """From now on there is something to lose; `save`, given the steps done, writes it."""
        self._breaks_off, self._save, self._parallel = False, save, parallel

    def at_end(self, do: Callable[[], object]) -> None:
        """Have `do` called once the `with` block ends, however it does, on one process."""
        self._at_end.append(do)

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """A block that may be left anywhere, by Stopped, where a signal comes or has come. It must not change what is
        saved; what has to be put right afterwards is put right outside of it, where no signal can come between."""
        if self.received:
            raise Stopped
        self._breaks_off = True
        try:
            yield
        finally:
            self._breaks_off = False

    def check(self, done: int) -> None:
        """Between two steps: where any rank was asked to stop, leave on every one. Every rank must call it."""
        if not self.received and self._launcher is not None and os.getppid() != self._launcher:
            self.received = "the launcher has gone"  # accelerate's does not pass a SIGTERM on, it just dies of it
        if self._parallel is not None and self._parallel.any(bool(self.received)) and not self.received:
            self.received = "another process was asked to"
        if self.received:
            self._save(done)
            if self._parallel is not None:
                self._parallel.end()
            raise Stopped(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A launcher that sees one process die sends SIGTERM to the others, so until all is said signals are only noted.
        self._breaks_off, self._ending = False, True
        try:
            left_alone = _is_peers(error)
            if left_alone:  # first of all, since the launcher does not wait for long
                rank = os.environ.get("RANK", "0")
                print(
                    f"\n{training_program()}: error: process {rank} stops, since another process of this run has "
                    "ended or does not answer; its own messages say why. The same command continues from the last "
                    "checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
            self._finish()
            unsent = self._send()
            if unsent is not None and error is not None and str(unsent) != str(error):  # which is said by the caller
                print(f"\n{training_program()}: error: {unsent}", file=sys.stderr, flush=True)
            if isinstance(error, Stopped):
                done = f" after {error.args[0]} steps" if error.args else ""
                alone = self.received == "SIGTERM" and not done and _ranks() > 1  # the ranks do not ask each other yet
                why = ", which a launcher sends too when another process of the run has ended" if alone else ""
                say = f"stopped{done} ({self.received}{why}); this continues:\n{self._command_to_continue()}"
                self._say(say, sys.stdout, every_rank=alone)
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)
        if isinstance(error, Stopped) or left_alone:
            _exit(0 if self.received and unsent is None else 1)
        if unsent is not None and error is None:
            raise unsent
        if whose := full_memory(error):
            raise InputError(
                f"{whose} memory is full; lower run.train_batch_size and raise run.gradient_accumulation_steps by as "
                "much, which trains the same, or set run.gradient_checkpointing to true; the same command continues "
                "from the last checkpoint"
            ) from None
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            raise InputError(
                f"{error.strerror or error}{where}; what was written before is complete: mend this, and the same "
                "command continues from the last checkpoint"
            ) from None

    def _finish(self) -> None:
        """What `at_end` asked for."""
        for do in self._at_end if os.environ.get("RANK", "0") == "0" else ():
            try:
                do()
            except (InputError, OSError) as trouble:  # what ended the block is to be said, and not this instead
                print(f"{training_program()}: {trouble}", file=sys.stderr)

    def _send(self) -> InputError | None:
        """Have in storage what the run has left, where it is there; what is wrong where that cannot be done."""
        try:
            if self.run is not None and self.run.storage is not None:
                self.run.storage.finish()
        except InputError as trouble:
            return trouble
        return None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now, name = time.monotonic(), signal.Signals(number).name
        self._leave_closed_terminals()
        if not self.received:
            self.received, self._since = name, now
            if not self._breaks_off and not self._ending:
                self._say(f"{name}: stops after this step, with a checkpoint; Ctrl-C again stops at once", sys.stderr)
        elif number == signal.SIGINT and now - self._since > BOUNCE:
            # Every file is written completely or not at all, so nothing that was written can be lost by leaving here.
            self._say(f"stopped at once; this continues:\n{self._command_to_continue()}", sys.stderr)
            os._exit(130)
        if self._breaks_off:
            self._breaks_off = False
            raise Stopped

    def _leave_closed_terminals(self) -> None:
        """Every word to a terminal that is gone is an error, which would end the run before its checkpoint."""
        for number in self._terminals:
            if not os.isatty(number):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)

    def _command_to_continue(self) -> str:
        if self.resume == "never" and self.run is not None:  # the same command would start over once more
            place = self.run.storage.address if self.run.storage else str(self.run.folder)
            return f"{self._command} --run.resume auto --run.output_dir {shlex.quote(place)}"
        return self._command

    def _say(self, text: str, stream: TextIO, every_rank: bool = False) -> None:
        if every_rank or os.environ.get("RANK", "0") == "0":
            print(f"\n{text}", file=stream, flush=True)


def _is_peers(error: BaseException | None) -> bool:
    """Whether what went wrong is that another process of the run has gone, also where a signal came on top of that."""
    if error is None or _ranks() == 1 or "torch" not in sys.modules:
        return False
    from torch import distributed

    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "by peer", "Broken pipe", "NCCL", "Timed out waiting")
    if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
        return True
    return isinstance(error, Stopped) and _is_peers(error.__context__)


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _exit(code: int) -> None:
    """End the program now: to take leave of processes that have gone, as an orderly exit would, can hang."""
    if _ranks() == 1:
        raise SystemExit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _launch_command() -> tuple[str, int | None]:
    """The command that started this run, and the launcher's process where one started it."""
    own = shlex.join(_without_interpreter(sys.orig_argv))
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")[:-1]
    except OSError:  # not Linux
        return own, None
    if not any(Path(word).name in LAUNCHERS for word in words[:3]):
        return own, None
    words = _without_interpreter(words)
    says_it_itself = any(Path(word).name in ("accelerate", *OURS) for word in words[:3])
    on_cpu = None if says_it_itself else os.environ.get("ACCELERATE_USE_CPU")
    return (f"ACCELERATE_USE_CPU={on_cpu} " if on_cpu else "") + shlex.join(words), os.getppid()


def _without_interpreter(words: list[str]) -> list[str]:
    """A launcher's script starts without its interpreter being named."""
    return words[1:] if len(words) > 1 and Path(words[1]).name in LAUNCHERS else words
