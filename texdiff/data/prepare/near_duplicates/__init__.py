"""Textures that are there more than once, at several sizes or compressed anew."""
