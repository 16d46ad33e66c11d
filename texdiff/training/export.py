"""What a finished run leaves for other programs."""

from pathlib import Path

from accelerate import Accelerator

from texdiff.config import TrainingConfig
from texdiff.models.lora_files.metadata import lora_metadata
from texdiff.models.trainable import Trainable
from texdiff.training.model_card import write_card
from texdiff.training.run.provenance import read_about


def export(config: TrainingConfig, trainable: Trainable, run: Path, accelerator: Accelerator) -> None:
    """Write what was trained to the run's folder, and its model card; the other ranks wait for that."""
    if accelerator.is_main_process:
        about = {}
        if config.model.train == "lora":
            textures, predicts = read_about(run)["dataset"]["textures"], trainable.family.process.prediction_type
            about = lora_metadata(config.to_dict(), trainable.denoiser, predicts, textures)
        trainable.save(run, about)
        write_card(run)
    accelerator.wait_for_everyone()
