"""Transfer of the mixing style of one song to another."""
