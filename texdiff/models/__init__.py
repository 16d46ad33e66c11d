"""Base models, what is trained of them, and the files of LoRAs."""

import os

# What goes wrong in loading reaches the user as one line of ours; what these libraries say while they are imported
# is about other uses. They read this once, so it stands before any of them.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
