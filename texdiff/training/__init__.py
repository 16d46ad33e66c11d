"""What a training run is made of: models, optimiser, checkpoints, validation."""
