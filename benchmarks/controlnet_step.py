"""A step of ControlNet training beside diffusers' train_controlnet.py: Stable Diffusion 1.5's shapes, 512 px, batch 1.

    python -m benchmarks.controlnet_step --peer TRAIN_CONTROLNET.PY [--base FOLDER] [--work FOLDER]

Both train all of a new ControlNet in float32 with AdamW, on the same textures and maps. Each is a process of its own,
after the other, since two do not fit into memory; each is ended after three steps, of which the first warms up.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import programs
from benchmarks.turns import Program, ProgramFailed, take_turns

STEPS, RESOLUTION = 3, 512


def peer_command(script: Path, load: programs.Workload, run: Path) -> programs.Command:
    """diffusers' script as its README says, without validation; `run` is its folder."""
    options = {
        "pretrained_model_name_or_path": load.base,
        "train_data_dir": load.dataset / "train",
        "image_column": "image",
        "conditioning_image_column": "layout",
        "caption_column": "text",
        "cache_dir": run / "datasets",
        "resolution": load.resolution,
        "train_batch_size": load.batch,
        "max_train_steps": load.steps,
        "seed": load.seed,
        "output_dir": run / "output",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    peer = ["benchmarks/peer_diffusers.py", str(script), *words]
    return lambda clock: [*programs.LAUNCH, "-m", "benchmarks.clock", *clock, *peer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="examples/controlnet/train_controlnet.py of diffusers")
    parser.add_argument("--base", type=Path, default=Path(tempfile.gettempdir()) / "texdiff-sd15-shapes")
    parser.add_argument("--work", type=Path, default=programs.WORK / "controlnet")
    given = parser.parse_args()
    work, base = given.work.resolve(), programs.sd15(given.base)
    dataset = programs.fresh_dataset(work, 4, RESOLUTION, held_out=False)
    load = programs.Workload(base=base, dataset=dataset, resolution=RESOLUTION, batch=1, steps=STEPS)
    settings = {"model.train": "controlnet", "layout.maps": "position", "run.report_to": "none"}
    commands = {"texdiff": programs.texdiff(load, work / "run", work / "cache", options=settings)}
    if script := programs.peer_script(given.peer):
        commands["diffusers"] = peer_command(script, load, work / "peer")
    record = {"machine": programs.machine(), "versions": programs.versions(), "programs": {}}
    for name, command in commands.items():
        program = Program(name, command, STEPS - 1, environment=programs.ENVIRONMENT, to_the_end=False)
        try:
            done = take_turns([program], work)[name]
        except ProgramFailed as error:
            sys.exit(str(error))
        record["programs"][name] = asdict(done)
        seconds, busy = (sum(each) / len(each) for each in (done.turns, done.processor))
        print(
            f"{name}: {seconds:.1f} s a step ({busy:.1f} s of the processor), {done.peak_memory / 2**30:.2f} GiB at "
            f"most, first step after {done.first_step:.0f} s",
            flush=True,
        )
    (work / "controlnet_step.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
