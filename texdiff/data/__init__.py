"""From meshes to a dataset on disk, and from there to batches on a device."""
