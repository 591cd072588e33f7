import pytest
import torch
from torch import Tensor

from mixprint.cascade.attribution import REST, shares

NUM_SAMPLES = 60_000


def sources() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(NUM_SAMPLES, generator=generator) for name in ("a", "b", "c")}


def test_a_mix_is_made_of_what_is_in_it() -> None:
    known = sources()
    found = shares(2 * known["a"] + known["b"], known)
    assert found["a"] == pytest.approx(0.8, abs=0.02)
    assert found["b"] == pytest.approx(0.2, abs=0.02)
    assert found["c"] < 0.01
    assert found[REST] < 0.01
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_filter_and_the_other_polarity_leave_a_source_what_it_is() -> None:
    known = sources()
    changed_T = -0.3 * (known["a"] + 0.5 * known["a"].roll(1))
    assert shares(changed_T, known)["a"] > 0.9


def test_what_no_source_explains_is_the_rest() -> None:
    other_T = torch.randn(NUM_SAMPLES, generator=torch.Generator().manual_seed(5))
    assert shares(other_T, sources())[REST] > 0.9


def test_silence_is_made_of_nothing() -> None:
    known = sources()
    assert set(shares(torch.zeros(NUM_SAMPLES), known).values()) == {0.0}
    silent = {**known, "c": torch.zeros(NUM_SAMPLES)}
    assert shares(known["a"], silent)["a"] > 0.99


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected sources of 10 samples"):
        shares(torch.zeros(10), sources())
