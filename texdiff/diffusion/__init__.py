"""The mathematics: noise, masks, loss. Pure functions on tensors; plain values in, never a config."""
