"""What becomes of the masks at latent size, and whether they are the right way round: said at the start, and kept."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator

from texdiff.config import MaskConfig
from texdiff.data.batch import LatentDataset
from texdiff.files import write_atomic
from texdiff.uv.inverted import many_inverted

FILE = "masks.json"
WORST = 10  # textures that the file names


@dataclass(frozen=True, kw_only=True)
class MaskReport:
    """Shares are 0-1."""

    dropped: float
    """Of the covered texels, those in latent cells that do not count."""
    void: float
    """Of what the latent cells count, what lies on texels that are not covered."""
    worst: tuple[tuple[str, float], ...]
    """Textures that lose most, by name, each with its dropped share."""
    compared: int
    """Textures with enough inside the mask and outside to be compared."""
    inverted: int
    """Of these, the ones that vary more outside the mask than inside."""
    warning: str | None
    """One line where that says that the masks are inverted."""


def report_masks(textures: LatentDataset) -> MaskReport:
    """Look at all textures' sums, which the cache keeps."""
    covered, dropped = textures.sums["covered"].double(), textures.sums["dropped"].double()
    share = dropped / covered
    most = share.argsort(descending=True, stable=True)[:WORST].tolist()
    variation = textures.variation.double()  # [n, 2]
    compared = int(variation.isfinite().all(dim=1).sum())
    inverted = int((variation[:, 1] > variation[:, 0]).sum())
    warning = (
        f"warning: the masks look inverted: {inverted} of {compared} textures vary more outside the mask than inside; "
        "white must be where the UV map uses the texture"
    )
    return MaskReport(
        dropped=float(dropped.sum() / covered.sum()),
        void=float(textures.sums["void"].double().sum() / textures.sums["target"].double().sum()),
        worst=tuple((textures.records[i].name, float(share[i])) for i in most if share[i] > 0),
        compared=compared,
        inverted=inverted,
        warning=warning if many_inverted(inverted, compared) else None,
    )


def say_masks(textures: LatentDataset, setting: MaskConfig, accelerator: Accelerator, run: Path) -> None:
    """Print what the masks lose on the way to latent size, and whether they look inverted; write RUN/masks.json."""
    if not accelerator.is_main_process:
        return
    report = report_masks(textures)
    grown = f" and dilation {setting.dilation}" if setting.dilation else ""
    worst = "; worst {}: {:.1%}".format(*report.worst[0]) if report.worst else ""
    print(
        f"latent masks     {setting.downsample}{grown} drop {report.dropped:.1%} of the covered texels{worst}; "
        f"{report.void:.1%} of what counts is void"
    )
    if report.warning:
        print(report.warning, flush=True)
    write_atomic(run / FILE, json.dumps(asdict(report), indent=1, ensure_ascii=False).encode())
