"""Settings of the console out of files of other programs, and of mixprint itself."""
