"""An independent judge of what a picture shows: a small network that has only seen the generator's pictures.

python -m benchmarks.nano.classifier        # trains it; writes outputs/nano/classifier.pt and prints its accuracy
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.nano.loop import OUT, learning_rate, save
from texdiff.demo.materials import MATERIALS
from texdiff.demo.palette import COLOURS
from texdiff.demo.patterns import paint, random_pattern

NAMES = [*MATERIALS], [*COLOURS]
SEED = 5000
"""Apart from every seed that `nano` is trained with."""


class Classifier(nn.Module):
    """uint8 pictures [B, 256, 256, 3] -> logits for the material [B, 12] and for the colour [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 24, 48, 96, 128]
        self.body = nn.Sequential(
            *(layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()))
        )
        self.heads = nn.ModuleList(nn.Linear(2 * widths[-1], len(names)) for names in NAMES)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        x = F.avg_pool2d(pictures.permute(0, 3, 1, 2).float() / 127.5 - 1, 2)
        if self.training:  # what no classifier should mind: mirroring, noise, blur
            x = x.flip(3) if torch.rand(()) < 0.5 else x
            x = F.avg_pool2d(x, 3, 1, 1) if torch.rand(()) < 0.4 else x
            x = x + 0.08 * torch.rand(()) * torch.randn_like(x)
        x = self.body(x)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return [head(pooled) for head in self.heads]


def labelled(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures uint8 [count, 256, 256, 3] and labels int64 [count, 2] (material, colour)."""
    pictures, labels = [], []
    for i in tqdm(range(count), "paint", mininterval=10):
        rng = np.random.default_rng((seed, i))
        pattern = random_pattern(rng)
        pictures.append(paint(pattern, 256, rng))
        labels.append([NAMES[0].index(pattern.material), NAMES[1].index(pattern.colour)])
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def accuracy(model: nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Share of right materials, share of right colours."""
    model.eval()
    with torch.no_grad():
        logits = [model(part) for part in pictures.split(50)]
    found = torch.stack([torch.cat([pair[i] for pair in logits]).argmax(1) for i in (0, 1)], 1)
    material, colour = (found == labels).float().mean(0).tolist()
    return material, colour


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    OUT.mkdir(parents=True, exist_ok=True)
    pictures, labels = labelled(2400, SEED)
    model = Classifier()
    steps = 1000
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    bar = tqdm(range(steps), "classifier", mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 2e-3)
        chosen = torch.randint(len(pictures), (32,))
        material, colour = model(pictures[chosen])
        loss = F.cross_entropy(material, labels[chosen, 0]) + F.cross_entropy(colour, labels[chosen, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    material, colour = accuracy(model, *labelled(400, SEED + 1))
    save("classifier.pt", model.state_dict())
    print(f"on 400 painted pictures it has not seen: material {material:.1%}, colour {colour:.1%}")


if __name__ == "__main__":
    main()
