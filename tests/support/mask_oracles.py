"""What a cell of a mask is, in each of the ways to bring it to latent size: of its 8 x 8 texels."""

import numpy as np

OF_A_CELL = {
    "nearest": lambda cell: cell[0, 0],
    "nearest-exact": lambda cell: cell[4, 4],
    "area": np.mean,
    "any": np.max,
    "all": np.min,
}
