"""Families of effects: each module has a tuple `EFFECTS`, which the registry joins."""
