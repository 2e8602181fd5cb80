"""Samplers against the distribution they should draw from, where all sequences can be enumerated."""
