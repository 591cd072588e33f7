"""Settings of the console in the forms of other programs, and back where they can be read."""
