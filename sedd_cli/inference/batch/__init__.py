"""Many templates from a file: its lines, their results, and the file that these are stored in."""
