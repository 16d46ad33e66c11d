"""What each switch of speed brings on a GPU: one process, synthetic latents, each switch alone and then together.

    python -m benchmarks.gpu_switches [--train lora full] [--batches 1 4 16] [--seconds 120] [--output FOLDER]
    python -m benchmarks.gpu_switches --try_on_cpu      # the same way on a tiny U-Net: no measurement

The step is the bare one: forward pass under autocast to bf16, mean squared error, backward pass and fused AdamW, on a
U-Net of Stable Diffusion 1.5's shapes at 512 px with random weights. Ten steps after three (more where there is
something to compile or record); the median of single steps, by the GPU's own clock, and by the wall's where launching
takes longer than computing. `error` is the relative distance of the first gradient from that in float32: a switch may
not make it worse than plain bf16 is.

Found on an H200 (docs/LOG.md): Python takes 125 to 190 ms to launch a step, so that graphs bring 4.5 at one image, 3.7
at 4 and 1.16 at 16; norms and adapters in bf16 together another 1.12 to 1.18 and a quarter of the memory; channels_last
1.16 at one image and 0.92 at 16.
"""

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.gpu_table import table
from benchmarks.true_size import unet as sd15_unet
from texdiff.models.nano import make_unet
from texdiff.training.speed import adapters_in_input_precision, norms_in_input_precision

RESULTS = Path(__file__).parent / "results"
WARM_UP, STEPS, RANK = 3, 10, 8
SWITCHES: dict[str, tuple[str, ...]] = {
    "plain": (),
    "graphs": ("graphs",),
    "graphs, norms": ("graphs", "norms"),
    "graphs, adapters": ("graphs", "adapters"),
    "graphs, norms, adapters": ("graphs", "norms", "adapters"),
    "graphs, norms, adapters, cudnn.benchmark": ("graphs", "norms", "adapters", "benchmark"),
    "graphs, norms, adapters, channels_last": ("graphs", "norms", "adapters", "channels_last"),
    "graphs, norms, adapters, channels_last, cudnn.benchmark": (
        "graphs",
        "norms",
        "adapters",
        "channels_last",
        "benchmark",
    ),
    "norms, adapters": ("norms", "adapters"),
    "blocks compiled": ("compile",),
    "graphs, norms, adapters, blocks compiled": ("graphs", "norms", "adapters", "compile"),
}
"""All but three with recorded graphs: without those nearly every step takes as long as Python takes to launch it."""


class Inputs(NamedTuple):
    """One batch of synthetic samples."""

    latents: Tensor  # [B, 4, h, w]
    timesteps: Tensor  # [B]
    text: Tensor  # [B, 77, D]
    target: Tensor  # [B, 4, h, w]


def make_inputs(unet: UNet2DConditionModel, batch: int, dtype: torch.dtype, device: torch.device) -> Inputs:
    """The same batch every time."""
    side = unet.config.sample_size
    draw = torch.Generator().manual_seed(1)
    latents, target = torch.randn(2, batch, 4, side, side, generator=draw)
    text = torch.randn(batch, 77, unet.config.cross_attention_dim, generator=draw)
    timesteps = torch.randint(1000, (batch,), generator=draw)
    return Inputs(latents.to(device, dtype), timesteps.to(device), text.to(device, dtype), target.to(device))


def build(make: Callable[[], UNet2DConditionModel], train: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A U-Net as the trainer has it: frozen weights in `dtype` under float32 adapters, or all weights in float32."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = make()
    if train == "lora":
        unet.requires_grad_(False)
        layers = ["to_q", "to_k", "to_v", "to_out.0"]
        unet.to(dtype).add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers))
        for parameter in unet.parameters():
            if parameter.requires_grad:
                # Not zero, as B is at first: every gradient is to say something.
                parameter.data = 0.02 * torch.randn(parameter.shape, device=device)
    return unet.to(device).train()


def switch_on(unet: Any, switches: Sequence[str], inputs: Inputs, dtype: torch.dtype) -> None:
    """In the order in which the trainer does it."""
    if "compile" in switches:
        unet.compile_repeated_blocks()
    if "channels_last" in switches:
        unet.to(memory_format=torch.channels_last)
    if "norms" in switches:
        norms_in_input_precision(unet)
    if "adapters" in switches:
        adapters_in_input_precision(unet)
    torch.backends.cudnn.benchmark = "benchmark" in switches
    if "graphs" in switches:
        with torch.autocast(inputs.latents.device.type, dtype, cache_enabled=False):
            torch.cuda.make_graphed_callables(unet, (inputs.latents, inputs.timesteps, inputs.text))


def gradient(unet: nn.Module, inputs: Inputs, dtype: torch.dtype) -> None:
    """Forward and backward pass."""
    with torch.autocast(inputs.latents.device.type, dtype, enabled=dtype != torch.float32):
        prediction = unet(inputs.latents, inputs.timesteps, inputs.text).sample
    F.mse_loss(prediction.float(), inputs.target).backward()


def first_gradient(unet: nn.Module, inputs: Inputs, dtype: torch.dtype) -> Tensor:
    """All gradients as one vector, on the CPU; the model has none afterwards."""
    gradient(unet, inputs, dtype)
    found = torch.cat([p.grad.flatten().float() for p in unet.parameters() if p.grad is not None]).cpu()
    unet.zero_grad()
    return found


def reference(make: Callable[[], UNet2DConditionModel], train: str, batch: int, device: torch.device) -> Tensor:
    """The gradient in float32. The weights are those that bf16 holds, so that only computing differs."""
    unet = build(make, train, torch.bfloat16, device)
    unet.float()
    inputs = make_inputs(unet, batch, torch.bfloat16, device)
    inputs = inputs._replace(latents=inputs.latents.float(), text=inputs.text.float())
    return first_gradient(unet, inputs, torch.float32)


def measure(
    make: Callable[[], UNet2DConditionModel],
    train: str,
    batch: int,
    switches: Sequence[str],
    exact: Tensor | None,
    device: torch.device,
) -> dict[str, float | None]:
    """Figures of one row. Seconds; bytes."""
    dtype, cuda = torch.bfloat16, device.type == "cuda"
    torch._dynamo.reset()
    unet = build(make, train, dtype, device)
    inputs = make_inputs(unet, batch, dtype, device)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    start = time.perf_counter()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    switch_on(unet, switches, inputs, dtype)
    found = first_gradient(unet, inputs, dtype)
    error = None if exact is None else float((found - exact).norm() / exact.norm())
    del found

    def step() -> None:
        gradient(unet, inputs, dtype)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UP):
        step()
    marks = [Mark(cuda) for _ in range(STEPS + 1)]
    ready = time.perf_counter() - start
    for mark in marks[:-1]:
        mark.set()
        step()
    marks[-1].set()
    seconds = median(after.since(before) for before, after in pairwise(marks))
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return {"step": seconds, "ready": ready, "peak_memory": peak, "error": error}


class Mark:
    """A moment on the GPU's clock, or on the wall's."""

    def __init__(self, cuda: bool) -> None:
        self.event = torch.cuda.Event(enable_timing=True) if cuda else None
        self.time = 0.0

    def set(self) -> None:
        self.time = time.perf_counter()
        if self.event:
            self.event.record()

    def since(self, earlier: "Mark") -> float:
        """Seconds."""
        if self.event and earlier.event:
            self.event.synchronize()
            return earlier.event.elapsed_time(self.event) / 1000
        return self.time - earlier.time


def markdown(record: dict[str, Any]) -> str:
    """The table of a record, each row beside the plain step of its kind."""
    plain = {(row["train"], row["batch"]): row for row in record["rows"] if row["switches"] == "plain"}
    rows = []
    for row in record["rows"]:
        names = [row["train"], row["batch"], row["switches"]]
        if row.get("failed"):
            rows.append([*names, row["failed"], "", "", "", "", ""])
            continue
        base = plain.get((row["train"], row["batch"]), row)
        gain = f"{base['step'] / row['step']:.2f}" if base.get("step") else ""
        memory = f"{row['peak_memory'] / 1e9:.2f}" if row["peak_memory"] else "no GPU"
        error = "" if row["error"] is None else f"{row['error']:.2g}"
        images = f"{row['batch'] / row['step']:.4g}"
        rows.append([*names, f"{1000 * row['step']:.4g}", images, gain, memory, error, f"{row['ready']:.1f}"])
    heads = [
        "train",
        "batch",
        "switches",
        "step, ms",
        "images/s",
        "plain / this",
        "peak memory, GB",
        "error",
        "ready, s",
    ]
    text = (
        f"`python -m benchmarks.gpu_switches`, {record['device']}, {record['title']}, bf16, LoRA of rank {RANK}; torch "
        f"{record['torch']}. The bare step (forward, backward, fused AdamW) on synthetic latents, median of {STEPS}; "
        "`error` is the first gradient's relative distance from float32's, `ready` the time until the first timed step."
    )
    return f"# What the switches of speed bring on a GPU\n\n{text}\n\n{table(heads, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no row is begun later than this")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for gpu_switches.json and .md")
    parser.add_argument("--try_on_cpu", action="store_true", help="go the whole way on the embedded base's U-Net")
    given = parser.parse_args()
    start, cuda, trial = time.perf_counter(), torch.cuda.is_available(), given.try_on_cpu
    if not cuda and not trial:
        sys.exit("benchmarks.gpu_switches: PyTorch finds no GPU here; --try_on_cpu goes the same way without measuring")
    device = torch.device("cuda" if cuda else "cpu")
    make, title = (make_unet, "nano") if trial else (sd15_unet, "Stable Diffusion 1.5's shapes, 512 px")
    name = torch.cuda.get_device_name() if cuda else "a CPU"
    record: dict[str, Any] = {"device": name, "title": title, "torch": torch.__version__, "rows": []}
    given.output.mkdir(parents=True, exist_ok=True)
    # What has to be compiled comes last, since it takes half a minute a row.
    rows = [(train, batch, label) for train in given.train for batch in given.batches for label in SWITCHES]
    exact: dict[str, Tensor] = {}
    for train, batch, label in sorted(rows, key=lambda row: "compile" in SWITCHES[row[2]]):
        switches = SWITCHES[label]
        # Weights that are trained whole have no adapters; what is compiled takes half a minute, so one batch of it.
        if (train == "full" and label == "graphs, adapters") or ("graphs" in switches and not cuda):
            continue
        if "compile" in switches and batch != max(given.batches):
            continue
        if time.perf_counter() - start > given.seconds:
            break
        row: dict[str, Any] = {"train": train, "batch": batch, "switches": label}
        try:
            # For the smallest batch only: it takes memory and time, and says the same for all.
            if batch == min(given.batches) and train not in exact:
                exact[train] = reference(make, train, batch, device)
            row |= measure(make, train, batch, switches, exact[train] if batch == min(given.batches) else None, device)
        except Exception as error:  # one switch may not cost the others their figures
            row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        record["rows"].append(row)
        print(row, flush=True)
        (given.output / "gpu_switches.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        (given.output / "gpu_switches.md").write_text(markdown(record), "utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
