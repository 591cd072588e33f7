"""The step ingest: `main.run`, its command line, and its KFP component."""
