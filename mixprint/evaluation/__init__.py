"""Measures how well an embedding follows the mix, and shows it."""
