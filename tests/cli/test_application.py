"""The application as a whole."""

import subprocess
import sys

from typer.testing import CliRunner

import mixprint
from mixprint.cli import app

runner = CliRunner()


def test_the_version_is_told_by_the_command_and_by_the_module() -> None:
    expected = f"mixprint {mixprint.__version__}\n"
    assert runner.invoke(app, ["--version"]).stdout == expected
    command = [sys.executable, "-m", "mixprint", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected
