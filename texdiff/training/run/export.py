"""What a run leaves for other programs: at its end, at its checkpoints, and where the held-out loss was best."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.files import atomic_folder, write_atomic
from texdiff.models.exports import BEST_FILE
from texdiff.models.lora_files.metadata import lora_metadata
from texdiff.models.trainable import Trainable
from texdiff.training.ema import Ema
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.model_card import write_card


class Export:
    """Writes what was trained, averaged where there is an average, in the form that other programs load."""

    def __init__(self, config: TrainingConfig, trainable: Trainable, ema: Ema, run: Run, parallel: Parallel) -> None:
        self.config, self.trainable, self.ema, self.run, self.parallel = config, trainable, ema, run, parallel

    def checkpoint(self) -> Callable[[Path, int], None] | None:
        """What writes into a checkpoint's folder after so many steps, on rank 0; None where run.export_checkpoints does
        not ask for it. Where weights are sharded every rank must call this."""
        return self._writer() if self.config.is_wanted(self.config.run.export_checkpoints) else None

    def best(self, step: int, loss: float) -> None:
        """Put RUN/best in the place of the one before, where run.keep_best asks for it. For rank 0 alone; where weights
        are sharded every rank must call it."""
        if not self.config.is_wanted(self.config.run.keep_best):
            return
        write = self._writer()
        if self.parallel.is_main:
            with atomic_folder(self.run.best_folder) as folder:
                write(folder, step)
                write_atomic(folder / BEST_FILE, json.dumps({"step": step, "validation_loss": loss}).encode())

    def finish(self, step: int) -> None:
        """Into the run's folder, after its last step, with the model card; the other ranks wait for that."""
        write = self._writer()
        if self.parallel.is_main:
            write(self.run.folder, step)
            write_card(self.run, inpainting=self.trainable.family.hiding is not None)
        self.parallel.wait()

    def _writer(self) -> Callable[[Path, int], None]:
        """`_write` with the denoiser's weights of now, gathered where they are sharded."""
        weights = None
        if self.parallel.sharded:
            with self.ema.averaged():
                weights = self.parallel.whole(self.trainable.denoiser.state_dict())
        return partial(self._write, weights)

    def _write(self, weights: Mapping[str, Tensor] | None, folder: Path, step: int) -> None:
        about = {}
        if self.config.model.train == "lora":
            textures, predicts = self.run.provenance()["dataset"]["textures"], self.trainable.family.process
            about = lora_metadata(
                self.config.to_dict(), self.trainable.denoiser, predicts.prediction_type, textures, step
            )
        with self.ema.averaged():
            self.trainable.save(folder, about, weights)
