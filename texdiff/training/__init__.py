"""What a training run does: objective, optimiser, checkpoints, validation, export."""

from texdiff import models as models  # first: it silences what diffusers and transformers say while they are imported
