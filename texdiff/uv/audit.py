"""What is wrong with an atlas: thresholds on its measures, and the reason to leave it out of a dataset."""

from collections.abc import Mapping

from texdiff.uv.measures import LATENT_CELL, Measure

# An atlas below 64 texels has 8 x 8 latents at most: fewer than a U-Net halves down to, and nothing to learn from.
MIN_SIDE = 64
# At 256 texels, 2 % are 20 of the 1,024 latent cells; with fewer the texture is a decal on a mostly unused image.
MIN_COVERAGE = 0.02
# An image resized to a square is squeezed by its aspect. Beyond 4 : 1 the details of one axis are gone; of the
# furniture this was set on, only strips (control panels, seams) are that long.
MAX_ASPECT = 4.0
# Covered texels that differ from their mean by less than 2 of 255 levels (RMS) are one colour and the noise of JPEG.
MIN_CONTRAST = 2.0
# UV coordinates are stored as float32, with 24 bits: where they reach further than this many texels from the origin,
# neighbouring coordinates are more than a texel apart, and no one can tell which texel is meant.
MAX_TEXELS_FROM_ORIGIN = float(1 << 24)
# More triangles without finite coordinates than this share: the file is damaged, the rest of it is not to be trusted.
MAX_NOT_FINITE = 0.01


def rejection_reason(measures: Mapping[str, Measure]) -> str | None:
    """None where the atlas is kept, else the first reason why it is rejected, as a clause about "the texture"."""
    height, width = float(measures["height"]), float(measures["width"])
    size = f"{width:.0f}x{height:.0f}"
    coverage = float(measures["coverage"])
    largest = max(
        (abs(float(measures.get(f"uv_{end}_{axis}", 0))) for end in ("min", "max") for axis in "uv"), default=0
    )
    if min(height, width) < MIN_SIDE:
        return f"is {size} texels; a side below {MIN_SIDE} holds too little to learn from"
    if max(height, width) > MAX_ASPECT * min(height, width):
        return f"is {size} texels; beyond {MAX_ASPECT:g}:1 a square image squeezes it too much"
    if float(measures.get("not_finite", 0)) > MAX_NOT_FINITE * float(measures.get("triangles", 0)):
        return f"has {measures['not_finite']} of {measures['triangles']} triangles whose UV coordinates are not finite"
    if largest * max(height, width) > MAX_TEXELS_FROM_ORIGIN:
        return f"has UV coordinates as large as {largest:.3g}, too large to tell texels apart"
    if measures.get("udim", False):
        return f"is laid out in UDIM tiles ({measures['tiles']} of them), but there is one image; bake it into one"
    by = "the UV map" if "triangles" in measures else "the mask"
    if coverage == 0:
        return f"is not covered by {by} at any texel's centre"
    if coverage < MIN_COVERAGE:
        return f"is covered to {coverage:.2%} by {by}, less than {MIN_COVERAGE:.0%}"
    if float(measures["contrast"]) < MIN_CONTRAST:
        return f"is plain where {by} covers it (contrast {float(measures['contrast']):.1f} of 255)"
    if float(measures["latent_lost_nearest"]) == 1:
        return f"has {measures['islands']} islands, all too thin for a latent cell of {LATENT_CELL} texels"
    return None
