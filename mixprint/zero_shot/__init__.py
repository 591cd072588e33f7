"""The zero-shot transfer: a network that applies a style in one pass."""
