"""FLAC frames and what their headers tell."""
