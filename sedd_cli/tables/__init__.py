"""The paper's tables and figures: their rows, which results exist, and how the rest is made."""
