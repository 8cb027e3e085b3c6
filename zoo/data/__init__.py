"""Files -> batches: readers, the built-in data set, the input pipeline."""
