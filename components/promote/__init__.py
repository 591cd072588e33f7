"""The step promote: `main.run`, its command line, and its KFP component."""
