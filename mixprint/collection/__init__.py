"""Collections of songs: where they lie, the catalogue, the shards of their stems."""
