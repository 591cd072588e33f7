"""The step train: `main.run`, its command line, and its KFP component."""
