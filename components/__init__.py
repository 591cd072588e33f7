"""The steps of the pipeline: each reads inputs, calls the library and writes outputs."""
