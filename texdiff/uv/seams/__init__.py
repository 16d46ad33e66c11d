"""Seams: edges of a mesh at which its UV map is cut."""
