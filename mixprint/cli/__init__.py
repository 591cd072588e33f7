"""The command line for a person with songs: `mixprint transfer`, `separate`, `features` and more.

Options are accepted with hyphens and with underscores. Heavy imports happen inside the commands,
so that `mixprint --help` answers at once.
"""

from mixprint.cli.application import app

__all__ = ["app"]
