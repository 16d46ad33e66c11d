"""Does a layout net hear its map? Two arms on nano, in turns: maps of the textures' own meshes, and of other meshes.

    python benchmarks/layout_gain.py [--output outputs/layout-gain] [--seconds 3600]

Looks in two colours, one above the middle of the object and one below, with captions that name both, on procedural
meshes; others are held out. Both arms train a ControlNet on the same textures by train_texture.py. After every turn the
layout gain on held-out meshes is written to OUTPUT/gains.jsonl, with a 95 % interval. Started again, it continues.
Seconds are those of the processor that each arm's training had.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from texdiff.demo.fields import fractal
from texdiff.demo.palette import COLOURS, jittered
from texdiff.demo.shapes import SHAPES, pack
from texdiff.files import write_atomic
from texdiff.uv.layout.map_image import encode_map, to_16_bits
from texdiff.uv.layout.position import position_map

ROOT = Path(__file__).parents[1]
TRAINED, HELD_OUT, SIDE = 420, 56, 128  # meshes, and pixels along a side of their textures
TURN = 1000  # steps that an arm does before the other one's turn
ARMS = {"own": "maps of their own meshes", "other": "maps of other meshes"}
SETTINGS = {
    "model.train": "controlnet",
    "layout.maps": "position",
    "data.resolution": SIDE,
    "run.train_batch_size": 4,
    "optim.learning_rate": 1e-3,
    "optim.lr_warmup_steps": 100,
    "optim.weight_decay": 0,
    "optim.use_ema": True,
    "optim.ema_decay": 0.995,
    # What nano's own training does as well: noise common to a channel, and late timesteps weighing more.
    "noise.offset": 0.3,
    "noise.snr_gamma": 0.5,
    "noise.timestep_sampling": "stratified",
    "run.checkpointing_steps": TURN,
    "validation.num_images": 0,
    "run.report_to": "none",
}


def two_tones(number: int) -> tuple[np.ndarray, np.ndarray, str]:
    """A texture uint8 [S, S, 3], the map uint16 [S, S, 3] of its mesh, and its caption."""
    rng = np.random.default_rng((17, number))
    shape = list(SHAPES)[number % len(SHAPES)]
    mesh = pack(SHAPES[shape](rng), rng, gap=8 / SIDE)
    positions = position_map(mesh.uv[mesh.faces], mesh.vertices[mesh.faces], (SIDE, SIDE))
    top, bottom = rng.choice(list(COLOURS), 2, replace=False)
    above = positions[..., 1:2] > 0.5
    colours = np.where(above, jittered(top, rng), jittered(bottom, rng))
    colours = colours * (0.9 + 0.2 * fractal(rng, SIDE, 6)[..., None])
    colours = np.where(positions.any(axis=2, keepdims=True), colours, 0.5)
    texture = np.rint(colours.clip(0, 1) * 255).astype(np.uint8)
    return texture, to_16_bits(positions), f"{top} top and {bottom} bottom {shape}"


def write_dataset(folder: Path, numbers: range, own_maps: bool) -> None:
    """A dataset of these textures, with their own maps or each with one of the others', of any shape."""
    made = [two_tones(number) for number in numbers]
    order = np.random.default_rng(0).permutation(len(made))
    # The next one in a random circle, so that nobody is their own.
    shown = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    lines = []
    for i, (texture, own, text) in enumerate(made):
        layout = own if own_maps else made[shown[i]][1]
        mask = np.where(own.any(axis=2), np.uint8(255), np.uint8(0))
        name = f"{numbers[i]:04d}.png"
        for kind, data in (("textures", texture[..., ::-1]), ("masks", mask)):
            write_atomic(folder / "train" / kind / name, cv2.imencode(".png", data)[1].tobytes(), durable=False)
        write_atomic(folder / "train/layouts" / name, encode_map(layout), durable=False)
        row = {"file_name": f"textures/{name}", "mask_file_name": f"masks/{name}", "text": text}
        row |= {"layout_file_name": f"layouts/{name}", "asset_id": name, "coverage": float((mask > 0).mean())}
        lines.append(json.dumps(row) + "\n")
    write_atomic(folder / "train/metadata.jsonl", "".join(lines).encode())  # last: where it is, all is


def train(arm: str, output: Path, steps: int) -> None:
    """Bring the arm's run to `steps` steps."""
    flags = {**SETTINGS, "data.dataset": output / "data" / arm, "run.output_dir": output / arm}
    words = [word for name, value in flags.items() for word in (f"--{name}", _word(value))]
    command = [sys.executable, str(ROOT / "train_texture.py"), *words, "--run.max_train_steps", str(steps)]
    with (output / f"{arm}.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT)


def measure(arm: str, output: Path) -> dict[str, Any]:
    """The layout gain of the arm's net, on held-out meshes."""
    import torch
    import yaml

    from texdiff.config import LayoutConfig
    from texdiff.evaluation.layout_gain import layout_gain
    from texdiff.models.family import load_family

    torch.set_num_threads(1)
    settings = yaml.safe_load((output / arm / "config.yaml").read_text())
    family = load_family("nano")
    net = family.layout_net(LayoutConfig(maps="position", init=str(output / arm)))
    pipeline = family.pipeline(family.denoiser.eval(), net.eval())
    gain = layout_gain(pipeline, family, settings, str(output / "data/held_out"))
    assert gain is not None
    return gain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/layout-gain"))
    parser.add_argument("--seconds", type=float, default=3600, help="that each arm has the processor for")
    given = parser.parse_args()
    output = given.output.absolute()
    for name, numbers, own_maps in (
        ("own", range(TRAINED), True),
        ("other", range(TRAINED), False),
        ("held_out", range(TRAINED, TRAINED + HELD_OUT), True),
    ):
        if not (output / "data" / name / "train/metadata.jsonl").is_file():
            write_dataset(output / "data" / name, numbers, own_maps)
    log = output / "gains.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    done = {
        arm: max(
            (one for one in lines if one["arm"] == arm),
            key=lambda one: one["step"],
            default={"step": 0, "seconds": 0.0},
        )
        for arm in ARMS
    }
    while (arm := min(done, key=lambda name: done[name]["step"])) and done[arm]["seconds"] < given.seconds:
        before = _processor_seconds()
        step = done[arm]["step"] + TURN
        train(arm, output, step)
        seconds = done[arm]["seconds"] + _processor_seconds() - before
        done[arm] = {"arm": arm, "step": step, "seconds": round(seconds, 1), **measure(arm, output)}
        with log.open("a") as file:
            file.write(json.dumps(done[arm]) + "\n")
        print(
            "{arm}: step {step}, {seconds:.0f} s, layout gain {gain:.5f} ({low:.5f} to {high:.5f})".format(**done[arm]),
            flush=True,
        )


def _word(value: object) -> str:
    """A setting on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
