"""The step separate: `main.run`, its command line, and its KFP component."""
