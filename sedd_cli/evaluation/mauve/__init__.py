"""MAUVE (Pillutla et al. 2021) of continued or infilled prompts against real text (SEDD, section 5.3)."""
