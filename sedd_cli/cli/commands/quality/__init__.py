"""Commands that measure the quality of samples."""
