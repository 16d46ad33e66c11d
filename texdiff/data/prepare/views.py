"""Views of a mesh for a captioner, drawn in a worker."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from texdiff.render.renderer import MeshViews
from texdiff.uv.image import write_png

VIEWS = "views.png"  # in an entry's folder
_FRONT_AND_BACK = ((35.0, 20.0), (215.0, 20.0))


@dataclass(frozen=True)
class ViewJob:
    """Draw the mesh at `path` into the entry at `folder`."""

    path: Path
    folder: Path


def draw_views(job: ViewJob) -> None:
    """Do one ViewJob: two views side by side, PNG. Raises InputError where the mesh has nothing to draw."""
    write_png(np.hstack([*MeshViews(job.path, _FRONT_AND_BACK).draw()]), job.folder / VIEWS)
