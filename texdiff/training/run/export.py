"""What a run leaves for other programs: at its end, at its checkpoints, and where the held-out loss was best."""

import json
from pathlib import Path

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

    def checkpoint(self, folder: Path, step: int) -> None:
        """Into a checkpoint's folder, where run.export_checkpoints asks for it. For rank 0 alone."""
        if self.config.is_wanted(self.config.run.export_checkpoints):
            self._write(folder, step)

    def best(self, step: int, loss: float) -> None:
        """Put RUN/best in the place of the one before, where run.keep_best asks for it. For rank 0 alone."""
        if self.config.is_wanted(self.config.run.keep_best):
            with atomic_folder(self.run.best_folder) as folder:
                self._write(folder, step)
                write_atomic(folder / BEST_FILE, json.dumps({"step": step, "validation_loss": loss}).encode())

    def finish(self, step: int) -> None:
        """Into the run's folder, after its last step, with the model card; the other ranks wait for that."""
        if self.parallel.is_main:
            self._write(self.run.folder, step)
            write_card(self.run, inpainting=self.trainable.family.hiding is not None)
        self.parallel.wait()

    def _write(self, folder: Path, step: int) -> None:
        about = {}
        if self.config.model.train == "lora":
            textures, predicts = self.run.provenance()["dataset"]["textures"], self.trainable.family.process
            about = lora_metadata(
                self.config.to_dict(), self.trainable.denoiser, predicts.prediction_type, textures, step
            )
        with self.ema.averaged():
            self.trainable.save(folder, about)
