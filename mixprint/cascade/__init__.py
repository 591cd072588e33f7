"""Creative mixing: the rhythm of one song with the harmony of another."""
