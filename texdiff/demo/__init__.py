"""Textured meshes made by code, so that everything can be tried without any data at hand."""
