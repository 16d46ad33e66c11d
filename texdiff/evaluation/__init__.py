"""How good a finished run is: metrics beside its base's, and images side by side."""
