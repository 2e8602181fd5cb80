"""Texts while they are denoised, and when they are done: on the screen, as a page, as a picture."""
