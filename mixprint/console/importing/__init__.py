"""Import of settings from projects of other programs."""
