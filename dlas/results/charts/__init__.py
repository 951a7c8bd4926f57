"""Figures as SVG: bars, plots, and grids of them, told apart without colour."""
