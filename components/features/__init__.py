"""The step features: `main.run`, its command line, and its KFP component."""
