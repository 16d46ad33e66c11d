"""Write the trained weights into the package, in half precision: the third step.

    python -m benchmarks.nano.export [--folder texdiff/assets/nano]

The tokenizer is left out: `texdiff.models.nano.nano_folder` makes it from the merges that the package has anyway.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.nano.loop import OUT
from benchmarks.nano.samples import trained_vae
from benchmarks.nano.train_unet import Painter
from texdiff.models.exports import LAYOUT_NET
from texdiff.models.layout_net import write_layout_net
from texdiff.models.nano import write_pipeline

PARTS = ["model_index.json", "scheduler", "text_encoder", "unet", "vae", LAYOUT_NET]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("texdiff/assets/nano"))
    given = parser.parse_args()
    state = torch.load(OUT / "unet.pt", map_location="cpu")
    painter = Painter()
    painter.load_state_dict(state["model"])
    vae = trained_vae("cpu")
    vae.register_to_config(scaling_factor=round(state["extra"]["scale"], 5))
    with tempfile.TemporaryDirectory() as aside:
        write_pipeline(Path(aside), vae, painter.text_encoder, painter.unet)
        write_layout_net(painter.layout_net, Path(aside) / LAYOUT_NET)
        for part in PARTS:
            target = given.folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if (source := Path(aside) / part).is_file():
                shutil.copyfile(source, target)
            else:
                shutil.copytree(source, target, dirs_exist_ok=True)
    for path in given.folder.rglob("*.safetensors"):
        save_file({name: array.astype(np.float16) for name, array in load_file(path).items()}, path, {"format": "pt"})
    size = sum(p.stat().st_size for p in given.folder.rglob("*") if p.is_file())
    print(f"{given.folder}: {size / 1e6:.1f} MB after {state['step']} steps")


if __name__ == "__main__":
    main()
