"""The step transfer: `main.run`, its command line, and its KFP component."""
