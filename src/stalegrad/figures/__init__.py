"""Figures: one module a paper, one function a figure, from a study's results to a Figure."""
