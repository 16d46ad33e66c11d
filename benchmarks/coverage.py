"""Time of rasterising UV maps against OpenCV's polygon fill called per triangle, and of the void fill.

    python benchmarks/coverage.py [--repeats 7]

Both fill the same triangles into a mask of the same size. OpenCV gets its coordinates in its fixed-point form ahead of
the clock; it is exact to 1/256 of a texel, coverage_mask to float64. Each case alternates the two and reports the
median and the best time of each, on one thread. Writes benchmarks/results/coverage.json and coverage.md.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill

RESULTS = Path(__file__).parent / "results"
SIZE = 2048


def grid(cells: int) -> NDArray[np.float64]:
    """2 * cells² triangles that tile the whole texture, each touching its neighbours: the shape of a real UV map."""
    rng = np.random.default_rng(0)
    line = np.linspace(0, 1, cells + 1)
    corner = np.stack(np.meshgrid(line, line), axis=-1)
    corner[1:-1, 1:-1] += rng.uniform(-0.3, 0.3, (cells - 1, cells - 1, 2)) / cells
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    return np.stack([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)], axis=2).reshape(-1, 3, 2)


def scattered(count: int, spread: float) -> NDArray[np.float64]:
    """Triangles anywhere, in no order, their corners ``spread`` (standard deviation) around a middle."""
    rng = np.random.default_rng(0)
    return np.clip(rng.random((count, 1, 2)) + rng.normal(0, spread, (count, 3, 2)), 0, 1)


def opencv(triangles: NDArray[np.float64]) -> Callable[[], NDArray[np.uint8]]:
    """The same mask by cv2.fillConvexPoly, triangle by triangle."""
    texels = triangles * [SIZE, -SIZE] + [-0.5, SIZE - 0.5]  # OpenCV's texel centres lie on whole numbers
    points = list(np.rint(texels * 256).astype(np.int32))

    def draw() -> NDArray[np.uint8]:
        mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
        for triangle in points:
            cv2.fillConvexPoly(mask, triangle, 1, shift=8)
        return mask

    return draw


def compare(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each function, taken in turn so that a busy moment of the machine meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return {name: {"median_s": statistics.median(times), "best_s": min(times)} for name, times in taken.items()}


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="times that each case is run")
    repeats = parser.parse_args().repeats
    cv2.setNumThreads(1)
    cases = {
        "1,000 triangles, tiling the texture": grid(22),
        "10,000 triangles, tiling the texture": grid(71),
        "100,352 triangles, tiling the texture": grid(224),
        "100,000 triangles, scattered, 10 texels": scattered(100_000, 0.005),
        "100,000 triangles, scattered, 2 texels": scattered(100_000, 0.001),
        "1,000 triangles, scattered, 200 texels": scattered(1000, 0.1),
    }
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, triangles in cases.items():
        functions: dict[str, Callable[[], object]] = {
            "center": lambda t=triangles: coverage_mask(t, (SIZE, SIZE)),  # type: ignore[misc]
            "conservative": lambda t=triangles: coverage_mask(t, (SIZE, SIZE), "conservative"),  # type: ignore[misc]
            "opencv": opencv(triangles),
        }
        results[name] = compare(functions, repeats)
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = coverage_mask(scattered(300, 0.03), (SIZE, SIZE))
    filling = compare({"fill": lambda: fill(texture, mask)}, repeats)["fill"]

    load = os.getloadavg()[0]
    record = {
        "machine": processor(), "load_average": round(load, 1), "size": SIZE, "repeats": repeats,
        "opencv": cv2.__version__, "numpy": np.__version__, "seconds": results, "fill_seconds": filling,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "coverage.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = [
        "# Rasterising UV maps",
        "",
        f"`python benchmarks/coverage.py`, {record['machine']}, load average {load:.1f}; {SIZE} x {SIZE} texels, one "
        f"thread, seconds: best (median) of {repeats}.",
        "",
        "| UV map | center | conservative | cv2.fillConvexPoly per triangle | center / OpenCV |",
        "|---|---|---|---|---|",
    ]
    for name, times in results.items():
        cells = [f"{times[key]['best_s']:.3f} ({times[key]['median_s']:.3f})" for key in times]
        lines.append(f"| {name} | {' | '.join(cells)} | {times['center']['best_s'] / times['opencv']['best_s']:.2f} |")
    lines += ["", f"Void fill of a texture of the same size: {filling['best_s']:.3f} ({filling['median_s']:.3f}).", ""]
    (RESULTS / "coverage.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
