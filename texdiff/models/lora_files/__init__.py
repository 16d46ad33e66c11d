"""Files of LoRAs: written and read, in every layout in use."""

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Its name in a run folder: diffusers' own."""
