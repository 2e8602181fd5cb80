"""Durations in words."""

from __future__ import annotations


def in_words(seconds: float) -> str:
    """A duration, rounded."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return "1 second" if round(seconds) == 1 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"


def about(seconds: float) -> str:
    """An estimated duration."""
    return in_words(seconds) if seconds < 1 else f"about {in_words(seconds)}"
