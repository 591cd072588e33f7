"""Checkpoints: safetensors beside JSON, and foreign files read without executing anything."""
