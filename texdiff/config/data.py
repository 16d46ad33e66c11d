"""The dataset, and what of it the model sees. `--help` shows the docstrings."""

from dataclasses import dataclass
from typing import Literal

from texdiff.bounds import Grey, Resolution, Share


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The dataset, and what of it the model sees."""

    dataset: str
    """Folder written by `texdiff prepare`, or any dataset that `texdiff check` accepts: images with masks in other
    trainers' layouts, kohya's .toml, a hub id with the three columns below."""
    image_column: str = "image"
    """Column that holds the texture."""
    mask_column: str = "mask"
    """Column that holds the UV mask: white where the UV map uses the texture."""
    caption_column: str = "text"
    """Column that holds the caption, or a list of captions of which each visit draws one. Where there is no `text`,
    caption, prompt or captions is taken."""
    max_token_length: Literal[77, 150, 225] = 77
    """Tokens that are read of a caption, here, in samples and wherever the result is used by texdiff: 77 is one pass of
    the text encoder, 75 tokens between its marks of start and end; 150 and 225 are up to two and three such passes, one
    after the other, as in ComfyUI and the WebUI."""
    layout_column: str = "layout"
    """Column that holds the map of the mesh, where layout.maps is `position`."""
    resolution: Resolution = 512
    """Side in pixels of the square that every texture is brought to; a multiple of 8."""
    background: Literal["fill", "keep"] | Grey = "fill"
    """The void between islands: `fill` from the islands, `keep` what is there, or a grey of 0-255."""
    posterior: Literal["sample", "mean"] = "sample"
    """Latents: drawn anew from the encoder's distribution at each visit, or its mean."""
    caption_dropout: Share = 0.1
    """Share of visits with an empty caption, which enables classifier-free guidance."""
    unreadable: Literal["stop", "skip"] = "stop"
    """A texture or mask that cannot be read: the run stops, or continues without it. It is named, and with `skip`
    counted and searched for at the start, which reads every image once."""
    cache: Literal["disk", "memory", "off"] = "disk"
    """Encoded textures and captions: kept on disk for every later run, kept in memory by each process, or encoded anew
    at every visit, with VAE and text encoder staying loaded. The numbers are the same, on a GPU with `off` up to
    rounding."""
    cache_dir: str | None = None
    """Folder for encoded textures and captions. Default: texdiff/ in the user's cache folder."""
