"""The step evaluate: `main.run`, its command line, and its KFP component."""
