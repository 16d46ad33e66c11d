"""Whether prompts name what is seen: 200 prompts over 10 materials and 8 colours, judged by the classifier.

    python -m benchmarks.nano.evaluate_prompts [--model FOLDER] [--count 200]

Writes outputs/nano/prompts.png, the first 40 samples, and outputs/nano/prompts.json.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from tqdm import tqdm

from benchmarks.nano.classifier import NAMES, Classifier, accuracy
from benchmarks.nano.loop import OUT
from texdiff.demo.patterns import Pattern, caption
from texdiff.models.nano import nano_folder

MATERIALS = ["brick", "planks", "tiles", "marble", "cloth", "rust", "grass", "camouflage", "stone", "metal"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a pipeline folder; the shipped one where left out")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = StableDiffusionPipeline.from_pretrained(given.model or nano_folder(), local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pairs = [(m, c) for c in COLOURS for m in MATERIALS]
    pairs = [pairs[i % len(pairs)] for i in range(given.count)]
    pictures = []
    for first in tqdm(range(0, given.count, 10), "sample"):
        prompts = [caption(Pattern(material=m, colour=c)) for m, c in pairs[first : first + 10]]
        draw = torch.Generator().manual_seed(first)
        images = pipeline(
            prompts,
            num_inference_steps=given.steps,
            guidance_scale=given.guidance,
            generator=draw,
            output_type="np",
        ).images
        pictures.extend(np.round(images * 255).astype(np.uint8))
    judge = Classifier()
    judge.load_state_dict(torch.load(OUT / "classifier.pt"))
    samples = torch.from_numpy(np.stack(pictures))
    labels = torch.tensor([[NAMES[0].index(m), NAMES[1].index(c)] for m, c in pairs])
    material, colour = accuracy(judge, samples, labels)
    result: dict[str, object] = {"prompts": given.count, "material": material, "colour": colour}
    for name in MATERIALS:
        mine = torch.tensor([m == name for m, _ in pairs])
        result[name] = round(accuracy(judge, samples[mine], labels[mine])[0], 3)
    (OUT / "prompts.json").write_text(json.dumps(result) + "\n")
    shown = pictures[:40] + [np.zeros_like(pictures[0])] * (-len(pictures[:40]) % 10)
    rows = [np.hstack(shown[i : i + 10]) for i in range(0, len(shown), 10)]
    cv2.imwrite(str(OUT / "prompts.png"), np.vstack(rows)[..., ::-1])
    print(" ".join(f"{name} {result[name]:.0%}" for name in MATERIALS))
    print(f"{given.count} prompts: material right in {material:.1%}, colour right in {colour:.1%}")


if __name__ == "__main__":
    main()
