"""What a start costs by its stages, processor seconds and memory, with everything cached. Linux alone.

    python -m benchmarks.start [--sizes 1000 1000000] [--work FOLDER]

Datasets and entries are those of benchmarks/growth.py; what is in the folder already is taken as it is. Each size is
started twice: the first start after a dataset was written reads its list, the second finds it read. Memory is of the
process itself (anonymous), and of files that are mapped, which the system takes back when it needs to. A million
textures take ten minutes and 9 GB to write.
"""

import argparse
import ctypes
import gc
import time
from pathlib import Path

from benchmarks import programs
from benchmarks.growth import RESOLUTION, fill_cache, make_dataset


class Clock:
    """Prints a line for each stage."""

    def __init__(self) -> None:
        self.begin = self.last = time.process_time()

    def stage(self, name: str) -> None:
        """What came since the stage before."""
        now = time.process_time()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        own, mapped, most = (int(status[key].split()[0]) // 1000 for key in ("RssAnon", "RssFile", "VmHWM"))
        print(f"| {name} | {now - self.last:.1f} | {own} | {mapped} | {most} |", flush=True)
        self.last = time.process_time()


def start(dataset: Path, cache: Path, run_folder: Path) -> None:
    """A run's start, as train_texture.py has it, up to its first batch's keys."""
    clock = Clock()
    from texdiff.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
    from texdiff.data.cache.encode import encode_dataset
    from texdiff.training import startup
    from texdiff.training.batching import BatchPlan
    from texdiff.training.parallel import Parallel
    from texdiff.training.run import Run

    config = TrainingConfig(
        model=ModelConfig(pretrained_model_name_or_path="nano"),
        data=DataConfig(dataset=str(dataset), resolution=RESOLUTION, cache_dir=str(cache)),
        run=RunConfig(output_dir=str(run_folder), max_train_steps=2),
    )
    parallel, plan = Parallel(cpu=True), BatchPlan(4, 1, 0, 1)
    run = Run.choose(config.run.output_dir, "never", 2, parallel)
    clock.stage("the program itself")
    records, held_out = startup.read_splits(config, parallel)
    clock.stage("records, a look at each file")
    family = startup.load_base(config)
    sizes = startup.print_summary(config, run, family, plan, parallel, records, held_out)
    clock.stage("base and summary")
    textures, _ = encode_dataset(config.data, config.mask, family, records, held_out, parallel)
    clock.stage("finding all in the cache")
    run.create(config, sizes, parallel)
    startup.report_masks(textures, config, run, parallel)
    textures.mixture.keys(0, 0, 4)
    clock.stage("the run's folder, masks, order")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    clock.stage("in use, without what malloc keeps")
    print(f"| all | {time.process_time() - clock.begin:.1f} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 1_000_000], help="numbers of textures")
    parser.add_argument("--work", type=Path, default=programs.WORK / "start", help="folder for datasets and entries")
    given = parser.parse_args()
    for size in given.sizes:
        dataset, cache = given.work / f"dataset-{size}", given.work / f"cache-{size}"
        if not cache.exists():
            fill_cache(make_dataset(dataset, size), cache)
        for number in ("first", "second"):
            print(f"\n{size:,} textures, {number} start\n\n| | processor s | own MB | mapped MB | highest MB |")
            print("|---|---|---|---|---|")
            code = "from pathlib import Path; from benchmarks.start import start; start(*map(Path, {!r}))"
            places = [str(place) for place in (dataset, cache, given.work / "run")]
            said = programs.python("-c", code.format(places))
            print("\n".join(line for line in said.splitlines() if line.startswith("| ")), flush=True)


if __name__ == "__main__":
    main()
