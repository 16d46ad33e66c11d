"""How visible a texture's seams are: the colours on both sides of each edge where the UV map is cut."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from texdiff.render.color import ciede2000, to_lab
from texdiff.render.sampling import Footprint, sample
from texdiff.uv.seams.edges import EdgePairs, MeshEdges

Floats = NDArray[np.float64]

_SAMPLES = 20_000  # along all edges of a kind, evenly by their length
_INSIDE = 1.0  # texels from the edge, on either side


@dataclass(frozen=True)
class SeamError:
    """CIEDE2000 across edges, one value for each sample."""

    seams: Floats
    inner: Floats

    def __add__(self, other: "SeamError") -> "SeamError":
        return SeamError(np.concatenate([self.seams, other.seams]), np.concatenate([self.inner, other.inner]))

    def metrics(self) -> dict[str, float | None]:
        """Mean and 95th percentile across seams, and each relative to edges inside islands: 1 is invisible.

        None where there are no such edges, or where nothing changes across the inner ones.
        """
        metrics: dict[str, float | None] = {}
        for name, of in (("mean", np.mean), ("p95", lambda values: np.percentile(values, 95))):
            seam, inner = (float(of(values)) if len(values) else None for values in (self.seams, self.inner))
            metrics[name], metrics[f"inner_{name}"] = seam, inner
            metrics[f"relative_{name}"] = seam / inner if seam is not None and inner else None
        return metrics


def seam_error(edges: MeshEdges, texture: NDArray[np.uint8]) -> SeamError:
    """Differences across the edges with this texture, uint8 [H, W, 3], its void filled as on the mesh.

    Colours are taken one texel inside on either side (bilinear), at places evenly spaced along the edges' length on
    the mesh. Across inner edges that is what two texels' distance makes, anywhere on an island.
    """
    return SeamError(*(_across(kind, texture, edges.wrap) for kind in (edges.seams, edges.inner)))


def _across(edges: EdgePairs, texture: NDArray[np.uint8], wrap: tuple[str, str]) -> Floats:
    """CIEDE2000 across the edges, [S], in a texture, [H, W, 3]."""
    total = edges.length.sum()
    if not total > 0:
        return np.zeros(0)
    ends = np.cumsum(edges.length)
    place = (np.arange(_SAMPLES) + 0.5) / _SAMPLES * total
    edge = np.minimum(np.searchsorted(ends, place), len(ends) - 1)
    share = np.clip(1 - (ends[edge] - place) / edges.length[edge], 0, 1)
    size = (texture.shape[0], texture.shape[1])
    still = np.zeros((_SAMPLES, 2), np.float32)
    labs = []
    for side in (0, 1):
        at = Footprint(edges.inside(edge, side, share, size, _INSIDE) / [size[1], size[0]], still, still)
        labs.append(to_lab(sample([texture], at, wrap)))
    return ciede2000(*labs)
