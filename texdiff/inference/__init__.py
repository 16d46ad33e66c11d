"""From trained weights back to a texture and to a mesh that wears it."""
