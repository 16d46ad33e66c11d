"""What is said of a dataset's voids before a run starts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from texdiff.config import DataConfig, MaskConfig, TrainingConfig
from texdiff.data.image_source import StoredFile
from texdiff.data.record import Record
from texdiff.training.voids import measure_voids, void_warning
from texdiff.uv.image import write_png


@pytest.fixture
def record(tmp_path: Path) -> Callable[[str, int | None], Record]:
    """A record of a name whose void is a grey, or noise."""

    def make(name: str, void: int | None) -> Record:
        texture = np.random.default_rng(len(name)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), bool)
        mask[:16] = True
        if void is not None:
            texture[~mask] = void
        files = [tmp_path / f"{name}-{kind}.png" for kind in ("texture", "mask")]
        write_png(texture, files[0])
        write_png(mask.astype(np.uint8) * 255, files[1])
        image, mask_file = (StoredFile(str(file)) for file in files)
        return Record(name=name, image=image, mask=mask_file, captions=("a",))

    return make


def settings(background: str | int, **mask: object) -> TrainingConfig:
    return TrainingConfig(data=DataConfig(dataset="d", background=background), mask=MaskConfig(**mask))  # type: ignore


def test_voids_of_a_dataset(record: Callable[[str, int | None], Record]) -> None:
    voids = measure_voids([record(f"{i}", void) for i, void in enumerate([0, 0, 255, None])], "keep")
    assert (voids.textures, voids.flat) == (4, 0.75)
    assert voids.colours == (((0, 0, 0), 0.5), ((255, 255, 255), 0.25))
    assert str(voids) == "75% of the textures have a void of one colour (#000000 in 50%, #ffffff in 25%)"
    assert str(measure_voids([record("a", None)], "fill")) == "none of the textures has a void of one colour"
    assert str(measure_voids([], 96)) == "100% of the textures have a void of one colour (#606060 in 100%)"
    assert measure_voids([record(f"{i}", 0) for i in range(130)], "keep").textures == 44  # every third


@pytest.mark.parametrize(
    ("config", "warns"),
    [
        (settings("keep", unmasked_weight=1.0), True),
        (settings(0, unmasked_weight=0.1), True),
        (settings("fill", unmasked_weight=1.0), False),
        (settings("keep"), False),
        (settings("keep", outside="base_model"), False),
    ],
)
def test_who_would_teach_the_void_is_told(
    config: TrainingConfig, warns: bool, record: Callable[[str, int | None], Record]
) -> None:
    flat = measure_voids([record("a", 0)], config.data.background)
    warning = void_warning(flat, config)
    assert (warning is not None) == warns
    if warning:
        assert "\n" not in warning
        assert warning.startswith(f"warning: data.background {config.data.background} with mask.unmasked_weight")
        assert void_warning(measure_voids([record("b", None)], "keep"), settings("keep", unmasked_weight=1.0)) is None
