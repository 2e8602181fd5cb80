"""Fast paths timed against plain ones, in turn in one process."""
