"""Figures of how good textures are."""
