"""Codecs: audio as a few numbers at each time, and back."""
