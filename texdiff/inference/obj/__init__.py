"""A mesh with a new texture as Wavefront OBJ, with its MTL and images beside it."""
