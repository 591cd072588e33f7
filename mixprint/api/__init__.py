"""The door for programs: the functions that `from mixprint import ...` gives."""
