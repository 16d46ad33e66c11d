"""What frozen encoders make of a dataset, cached."""
