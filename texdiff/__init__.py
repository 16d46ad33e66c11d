"""texdiff: fine-tune Stable Diffusion on UV texture atlases, counting only texels that land on the model."""

__version__ = "0.1.0"
