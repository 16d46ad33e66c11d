"""Metrics of textures: of each image, of sets of images, and on meshes."""
