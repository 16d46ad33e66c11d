"""What a finished run leaves for other programs."""

from texdiff.config import TrainingConfig
from texdiff.models.lora_files.metadata import lora_metadata
from texdiff.models.trainable import Trainable
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.model_card import write_card


def export(config: TrainingConfig, trainable: Trainable, run: Run, parallel: Parallel) -> None:
    """Write what was trained to the run's folder, and its model card; the other ranks wait for that."""
    if parallel.is_main:
        about = {}
        if config.model.train == "lora":
            textures, predicts = run.provenance()["dataset"]["textures"], trainable.family.process.prediction_type
            about = lora_metadata(config.to_dict(), trainable.denoiser, predicts, textures)
        trainable.save(run.folder, about)
        write_card(run)
    parallel.wait()
