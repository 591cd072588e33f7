"""The DAG: wiring, compiling, and running it on this machine."""
