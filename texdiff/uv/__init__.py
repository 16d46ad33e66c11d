"""UV maps and the texels they cover: reading meshes, rasterising, filling the void. No torch in here."""
