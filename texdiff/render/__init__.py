"""Meshes drawn on a CPU, without OpenGL."""
