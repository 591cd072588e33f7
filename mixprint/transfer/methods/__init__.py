"""Methods of transfer: ways from an input and a style to the output's stems."""
