"""What the training programs of `nano` share: where files lie, the learning rate, and the loop itself.

A training is given seconds, not steps: its learning rate falls to nothing as they run out, so that it ends annealed
on whatever machine. On a CPU they are those that it had the processor, so that what else runs there does not count. On
a GPU a step is recorded once, as a CUDA graph, and then only replayed.
"""

import copy
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

OUT = Path(os.environ.get("NANO_OUT", "outputs/nano"))
WARM_UP = 100
REPORT_SECONDS, SAVE_SECONDS = 5, 15
STEPS_AHEAD = 16
"""How many steps a GPU is given before the program waits for it, so that its clock is at most those behind."""

EAGER, STARTED = "NANO_EAGER", "NANO_STARTED"
"""Environment variables. The first, where set: no step is recorded. The second: when the program began."""
_started = float(os.environ.get(STARTED) or time.monotonic())
_processor_before = 0.0


def learning_rate(step: int, steps: float, peak: float) -> float:
    """Linear warm-up over 100 steps, then half a cosine down to zero."""
    return annealed(step, step / steps, peak)


def annealed(step: int, share: float, peak: float) -> float:
    """The same, where a share of the training is over that is not counted in steps."""
    return peak * min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(share, 1)))


def save(name: str, state: dict[str, Any]) -> None:
    """Write outputs/nano/NAME whole or not at all."""
    torch.save(state, OUT / f"{name}.part")
    os.replace(OUT / f"{name}.part", OUT / name)


def start(threads: int) -> str:
    """The device to train on. Makes the output folder, and a GPU choose the fastest convolutions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.benchmark = True  # every batch has the same shape
    torch.set_float32_matmul_precision("high")
    return "cuda"


def precision(device: str) -> torch.autocast:
    """bfloat16 where it is safe, on a CPU; on a GPU the weights themselves are in bfloat16 (see Training)."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=device == "cpu")


def tell(line: str) -> None:
    """Print a line of progress, with the seconds since the program began."""
    print(f"[{time.monotonic() - _started:6.1f} s] {line}", flush=True)


def spent(device: str) -> float:
    """Seconds of this program: since it began on a GPU, and those of each of its threads on a CPU."""
    if device == "cuda":
        return time.monotonic() - _started
    return (time.process_time() - _processor_before) / torch.get_num_threads()


class Training:
    """A module's training by AdamW, with a moving average of its weights.

    `working` is what the objective runs: the module on a CPU, a copy in bfloat16 on a GPU, which each step takes the
    weights from the module and gives it the gradients. Under autocast group normalisation would run in float32, which
    together with the casts around it moves twice the bytes; and bytes are what limits such narrow networks there.

    Its files: NAME.pt has the average as it is shipped, in half precision, with the steps and seconds so far and
    `extra`; NAME-training.pt has what an exact continuation needs. Where only the first is there, it goes on from the
    average with a fresh optimiser.
    """

    def __init__(
        self, name: str, module: nn.Module, device: str, peak: float, weight_decay: float, average_decay: float
    ) -> None:
        self.name, self.module, self.device, self.peak = name, module, device, peak
        self.average_decay = average_decay
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.parameters: list[torch.Tensor] = list(module.parameters())
        self.averages: list[torch.Tensor] = list(self.average.parameters())
        self.working = copy.deepcopy(module).to(torch.bfloat16) if device == "cuda" else module
        self.rate, self.toward, self.total = (torch.zeros((), device=device) for _ in range(3))
        gpu = device == "cuda"  # a recorded step reads the rate from the GPU's memory
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.rate if gpu else peak,
            betas=(0.9, 0.99),
            weight_decay=weight_decay,
            fused=gpu,
            capturable=gpu,
        )
        self.step, self.seconds = 0, 0.0
        self.extra: dict[str, Any] = {}
        if (OUT / f"{name}.pt").exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(OUT / f"{self.name}.pt", map_location=self.device)
        self.step, self.seconds, self.extra = state["step"], state["seconds"], state["extra"]
        self.average.load_state_dict({key: value.float() for key, value in state["model"].items()})
        whole = OUT / f"{self.name}-training.pt"
        exact = torch.load(whole, map_location=self.device) if whole.exists() else None
        if exact and exact["step"] >= self.step:
            self.step, self.seconds = exact["step"], exact["seconds"]
            self.module.load_state_dict(exact["model"])
            self.average.load_state_dict(exact["average"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": exact["optimizer"], "param_groups": groups})
        else:
            self.module.load_state_dict(self.average.state_dict())
        torch.manual_seed(self.step)  # not the same draws again
        tell(f"{self.name}: goes on from step {self.step}, {self.seconds:.0f} s")

    def save(self) -> None:
        """Write both files."""
        state = {"step": self.step, "seconds": self.seconds}
        average = self.average.state_dict()
        whole = {"model": self.module.state_dict(), "average": average}
        save(f"{self.name}-training.pt", state | whole | {"optimizer": self.optimizer.state_dict()["state"]})
        half = {key: value.half() for key, value in average.items()}
        save(f"{self.name}.pt", state | {"model": half, "extra": self.extra})

    def run(
        self,
        objective: Callable[[], tuple[torch.Tensor, torch.Tensor]],
        seconds: float,
        pictures: int,
        words: Callable[[float], str],
        record: bool = True,
    ) -> int:
        """Train until the seconds are over: all calls together, with their starts. SIGTERM saves and ends it.

        Returns the program's exit status, 143 after SIGTERM.

        `objective()` draws a batch of `pictures` on the device and returns what is minimised and what is reported,
        both scalars there; `words` puts the mean of the latter into words. `record`: whether all steps are alike but
        for what is drawn, so that a GPU can record one and replay it.
        """
        stopped: list[int] = []

        def stop(number: int, frame: FrameType | None) -> None:
            stopped.append(number)

        signal.signal(signal.SIGTERM, stop)
        before = self.seconds
        if before + spent(self.device) >= seconds:
            tell(f"{self.name}: no time left of {seconds:.0f} s")
            return 0
        first = self.step
        step = self._recorded(lambda: self._one_step(objective), record)
        saved = reported = time.monotonic()
        begun = spent(self.device)
        whole = max(seconds - begun, before + 1)  # what is left for training, earlier calls' with it
        tell(f"{self.name}: begins; {whole - before:.0f} s left")
        good, counted = self._copies(), self.step
        over = False
        while not over:
            self._set(self.step - first, (before + spent(self.device) - begun) / whole)
            for _ in range(STEPS_AHEAD if self.device == "cuda" else 1):
                step()
                self.step += 1
            if self.device == "cuda":
                torch.cuda.synchronize()
            now = time.monotonic()
            self.seconds = before + spent(self.device)
            over = bool(stopped) or self.seconds >= seconds
            if not over and now - reported < REPORT_SECONDS:
                continue
            mean, speed = self.total.item() / (self.step - counted), (self.step - counted) / (now - reported)
            self.total.zero_()
            counted, reported = self.step, now
            line = f"{self.name}: step {self.step}, {pictures * speed:.0f} pictures/s, rate {self.current:.1e}"
            if not math.isfinite(mean):
                tell(f"{line}, the loss is not finite: back to the last good weights")
                self._restore(good)
                continue
            tell(f"{line}, {words(mean)}")
            if over or now - saved > SAVE_SECONDS:
                self.save()
                good, saved = self._copies(), now
        return 128 + stopped[0] if stopped else 0

    def _set(self, steps: int, share: float) -> None:
        """The learning rate, and how far the average moves towards the weights, for the steps to come."""
        self.current = annealed(steps, share, self.peak)
        self.rate.fill_(self.current)
        self.toward.fill_(1 - min(self.average_decay, (self.step + 1) / (self.step + 10)))
        if self.device != "cuda":
            for group in self.optimizer.param_groups:
                group["lr"] = self.current

    def _one_step(self, objective: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        working: list[torch.Tensor] = list(self.working.parameters())
        apart = self.working is not self.module
        if apart:
            with torch.no_grad():
                torch._foreach_copy_(working, self.parameters)
        loss, reported = objective()
        for weight in working:
            weight.grad = None
        loss.backward()
        if apart:
            gradients = [torch.empty_like(weight) for weight in self.parameters]
            torch._foreach_copy_(gradients, [weight.grad for weight in working if weight.grad is not None])
            for weight, gradient in zip(self.parameters, gradients, strict=True):
                weight.grad = gradient
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        with torch.no_grad():
            difference = torch._foreach_sub(self.parameters, self.averages)
            torch._foreach_mul_(difference, self.toward)
            torch._foreach_add_(self.averages, difference)
            self.total += reported.detach()

    def _recorded(self, step: Callable[[], None], record: bool) -> Callable[[], None]:
        """The step, as a CUDA graph where it is to be one, after three as they are; where that fails, the program
        starts again without."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate if self.device == "cuda" else self.peak  # loading has put a copy there
        if self.device != "cuda" or EAGER in os.environ or not record:
            return step
        try:
            self._set(0, 0.0)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            graph.replay()
            torch.cuda.synchronize()
        except Exception as error:  # whatever it is, without a graph the same step may work
            tell(f"{self.name}: can't be recorded as a CUDA graph, starts again without: {error}")
            os.environ |= {EAGER: "1", STARTED: str(_started)}
            os.execv(sys.executable, sys.orig_argv)
        self.total.zero_()
        self.step += 4
        return graph.replay

    def _tensors(self) -> list[torch.Tensor]:
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        return [tensor.detach() for tensor in (*self.parameters, *self.averages, *moments)]

    def _copies(self) -> list[torch.Tensor]:
        return [tensor.clone() for tensor in self._tensors()]

    def _restore(self, copies: list[torch.Tensor]) -> None:
        tensors = self._tensors()
        torch._foreach_copy_(tensors[: len(copies)], copies)
        for moment in tensors[len(copies) :]:  # the optimiser had no state then
            moment.zero_()
