"""Maps of what lies under each texel of a texture: where on the object it is, which way it faces, where faces meet."""
