"""`python -m mixprint`: the command line, where no `mixprint` is on the path."""

from mixprint.cli import app

if __name__ == "__main__":
    app(prog_name="mixprint")
