"""Fast paths against plain ones, in turn in one process."""
