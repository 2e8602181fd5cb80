"""Commands that look at runs: one, a list, several side by side."""
