"""The package timed beside straightforward (plain) implementations, in turn in one process."""
