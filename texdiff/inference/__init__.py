"""From trained weights to textures, and from these to textured meshes."""
