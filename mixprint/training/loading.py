"""Seeds and the division of batches: equal for any number of ranks and reading processes."""

import hashlib


def derive_seed(*parts: object) -> int:
    """Mix a seed with what it is for, equal on every machine and in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch wants it signed


def rank_rows(size: int, rank: int, world_size: int) -> slice:
    """Return a rank's consecutive rows of a batch; sizes differ by one at most."""
    return slice(rank * size // world_size, (rank + 1) * size // world_size)
