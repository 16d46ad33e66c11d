"""What the mask is for: the same fine-tuning with and without mask and fill, on atlases with voids of several kinds.

`python -m benchmarks.mask_study MESHES` makes table and picture from nothing; `__main__.py` says how.
"""
