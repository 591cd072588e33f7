"""Give one song the mixing style of another."""
