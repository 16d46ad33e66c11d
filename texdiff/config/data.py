"""The dataset, and what of it the model sees. `--help` shows the docstrings."""

from dataclasses import dataclass, fields
from typing import Literal

from texdiff.bounds import Grey, NonNegative, Positive, Resolution, Scales, Share
from texdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One of several sources of textures."""

    path: str
    """What data.dataset would be with this source alone."""
    weight: Positive | None = None
    """Its share of visits is this over the sum of all sources' weights, whatever its number of textures; 1 where
    others have a weight. Not with repeats."""
    repeats: Positive | None = None
    """Visits to each of its textures in an epoch, beside those to the textures of other sources; default 1."""
    caption_prefix: str = ""
    """Text before each of its captions, with a space between."""
    loss_weight: NonNegative = 1.0
    """Factor of its samples' errors in the loss; for a regularisation set this is kohya's prior_loss_weight."""
    prior_loss_weight: NonNegative = 1.0
    """A further factor for the images that the source itself marks as regularisation: kohya's is_reg."""


def check_sources(values: object) -> None:
    """Raise InputError, naming the key, for what cannot be a list of sources as YAML has it."""
    if not isinstance(values, list) or not values:
        raise InputError("data.dataset must be a folder, a hub id, or a list of sources such as {path: a, weight: 2}")
    for number, source in enumerate(values):
        key = f"data.dataset[{number}]"
        if not isinstance(source, dict):
            raise InputError(f"{key} must be a source such as {{path: a, weight: 2}} (got {source})")
        known = [field.name for field in fields(SourceConfig)]
        for name, value in source.items():
            if name not in known:
                raise InputError(f"{key}.{name} is not a key of a source; there are {', '.join(known)}")
            is_text, is_number = isinstance(value, str), isinstance(value, int | float) and not isinstance(value, bool)
            if name in ("path", "caption_prefix"):
                if not is_text:
                    raise InputError(f"{key}.{name} must be a text (got {value})")
            elif not is_number and (value is not None or name not in ("weight", "repeats")):
                raise InputError(f"{key}.{name} must be a number (got {value})")
        if "path" not in source:
            raise InputError(f"{key}.path is missing; name the source's folder, kohya's .toml or hub id")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The dataset, and what of it the model sees."""

    dataset: tuple[SourceConfig, ...] | str
    """Folder written by `texdiff prepare`, or its address in object storage, such as s3://bucket/folder; or any dataset
    that `texdiff check` accepts: images with masks in other trainers' layouts, kohya's .toml, a hub id with the three
    columns below. Or a list of such sources with their shares of visits, such as [{path: a, weight: 3}, {path: b,
    weight: 1, loss_weight: 0.5}]; keys: path, weight, repeats, caption_prefix, loss_weight, prior_loss_weight."""
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
    """Side in pixels of the square that the U-Net sees; a multiple of 8. Every texture is brought to it, or with
    source_resolution cut to it."""
    source_resolution: Resolution | None = None
    """Train on windows of `resolution` pixels that are cut from atlases at their own size, of up to this many pixels a
    side: larger ones are brought to it, and those smaller than `resolution` to that. null brings every texture to
    `resolution`."""
    scales: Scales = (1.0,)
    """With source_resolution: the sizes that an atlas's windows are cut at in turn, as factors of its own, such as
    [1, 0.5, 0]. 0 is all of it in one window, as without source_resolution."""
    min_crop_coverage: Share = 0.0
    """With source_resolution: no window is drawn of which a smaller share of latent cells is covered, but where it is
    the only way to reach a cell. The fuller a window the more often it is drawn anyway."""
    background: Literal["fill", "keep"] | Grey = "fill"
    """The void between islands: `fill` from the islands, `keep` what is there, or a grey of 0-255."""
    posterior: Literal["sample", "mean"] = "sample"
    """Latents: drawn anew from the encoder's distribution at each visit, or its mean."""
    caption_dropout: Share = 0.1
    """Share of visits with an empty caption, which enables classifier-free guidance."""
    order: Literal["rows", "blocks"] = "rows"
    """The order of visits in an epoch: of all rows anew, or of blocks of 256 rows anew, of which 16 at a time have
    their rows mixed. `blocks` reads in few places at a time: for data in storage by address, and for a cache that does
    not fit in memory. Up to 4096 rows there is no difference."""
    unreadable: Literal["stop", "skip"] = "stop"
    """A texture or mask that cannot be read: the run stops, or continues without it. It is named, and with `skip`
    counted and searched for at the start, which reads every image once."""
    cache: Literal["disk", "memory", "off"] = "disk"
    """Encoded textures and captions: kept on disk for every later run, kept in memory by each process, or encoded anew
    at every visit, with VAE and text encoder staying loaded. The numbers are the same, on a GPU with `off` up to
    rounding."""
    cache_dir: str | None = None
    """Folder for encoded textures and captions, or an address such as s3://bucket/cache. Default: texdiff/ in the
    user's cache folder."""

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """The sources; a dataset that is no list is the only one."""
        return (SourceConfig(path=self.dataset),) if isinstance(self.dataset, str) else self.dataset
