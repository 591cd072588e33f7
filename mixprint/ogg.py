"""Ogg pages and the streams in them."""
