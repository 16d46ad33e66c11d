"""Mesh files: read into parts, and those into atlases."""
