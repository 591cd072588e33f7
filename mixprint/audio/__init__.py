"""Audio files: opened, checked, decoded, resampled and written."""
