"""Where `load_base` has always stood."""

from texdiff.models.base import load_base as load_base
