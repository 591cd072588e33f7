"""Learn what a mix sounds like, and give one song the mix of another."""

from importlib.metadata import version

__version__ = version("mixprint")
