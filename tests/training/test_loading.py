import hashlib

import pytest

from mixprint.training.loading import derive_seed, rank_rows


def test_seeds_differ_by_purpose_and_suit_torch() -> None:
    seeds = [derive_seed(1, purpose, step) for purpose in ("a", "b") for step in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, "a", 0) == int(hashlib.sha256(b"1/a/0").hexdigest()[:16], 16) // 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_divide_a_batch(world_size: int) -> None:
    rows = [rank_rows(7, rank, world_size) for rank in range(world_size)]
    assert [i for r in rows for i in range(7)[r]] == list(range(7))
    sizes = [r.stop - r.start for r in rows]
    assert max(sizes) - min(sizes) <= 1
