import math

import numpy as np
import pytest
import torch

from mixprint.evaluation.degradations import DEGRADATIONS, degrade
from mixprint.stems import STEMS

RATE_HZ = 44_100


def make_stems(num_samples: int = RATE_HZ) -> torch.Tensor:
    """Make stems of noise whose loudness swells, so that there is something to compress."""
    generator = torch.Generator().manual_seed(0)
    swell_T = torch.linspace(0.02, 0.2, num_samples)
    return swell_T * torch.randn(4, 2, num_samples, generator=generator)


def rms_db(stems_SCT: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(stems_SCT.square().mean(dim=(1, 2)))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_levels_stay_and_damage_grows_with_severity(kind: str) -> None:
    stems_SCT = make_stems()
    assert degrade(stems_SCT, kind, 0.0, seed=1) is stems_SCT
    distances = []
    for severity in (0.2, 0.6, 1.0):
        damaged_SCT = degrade(stems_SCT, kind, severity, seed=1)
        assert damaged_SCT.dtype == torch.float32
        torch.testing.assert_close(rms_db(damaged_SCT), rms_db(stems_SCT), atol=1e-3, rtol=0)
        distances.append(float((damaged_SCT - stems_SCT).square().mean()))
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_clipping_cuts_the_crest_factor() -> None:
    sine_T = torch.sin(2 * math.pi * 1_000 * torch.arange(RATE_HZ) / RATE_HZ)
    damaged_SCT = degrade(sine_T.expand(4, 2, -1), "clipping", 1.0, seed=1)
    crest = damaged_SCT.abs().max() / damaged_SCT.square().mean().sqrt()
    # 24 dB into the clipper a sine is nearly a square wave, whose crest factor is 1.
    assert crest.item() == pytest.approx(1.0, abs=0.05)


def test_noise_has_the_ratio_that_it_should_have() -> None:
    stems_SCT = make_stems()
    damaged_SCT = degrade(stems_SCT, "noise", 1.0, seed=1)
    # The part that is like the stem, and the rest: 10 dB apart.
    like_S = (damaged_SCT * stems_SCT).sum(dim=(1, 2)) / stems_SCT.square().sum(dim=(1, 2))
    rest_SCT = damaged_SCT - like_S[:, None, None] * stems_SCT
    ratio_db = rms_db(like_S[:, None, None] * stems_SCT) - rms_db(rest_SCT)
    torch.testing.assert_close(ratio_db, torch.full((4,), 10.0), atol=0.2, rtol=0)
    assert not torch.equal(degrade(stems_SCT, "noise", 1.0, seed=2), damaged_SCT)


def test_masking_swaps_the_presence_of_vocals_and_others() -> None:
    stems_SCT = make_stems()
    damaged_SCT = degrade(stems_SCT, "masking", 1.0, seed=1)
    frequency_hz = torch.fft.rfftfreq(RATE_HZ, 1 / RATE_HZ)
    near = (frequency_hz > 2_400) & (frequency_hz < 2_600)
    low = frequency_hz < 300

    def presence_db(x_SCT: torch.Tensor) -> torch.Tensor:
        power_SF = torch.fft.rfft(x_SCT).abs().square().mean(dim=1)
        return 10 * torch.log10(power_SF[:, near].mean(dim=1) / power_SF[:, low].mean(dim=1))

    change_db = presence_db(damaged_SCT) - presence_db(stems_SCT)
    sign = np.array([-1 if stem == "vocals" else 1 for stem in STEMS])
    np.testing.assert_allclose(change_db.numpy(), 12 * sign, atol=1)


def test_compression_levels_the_swell() -> None:
    def swell_db(x_SCT: torch.Tensor) -> float:
        mix_CT = x_SCT.sum(dim=0)
        first, last = mix_CT[:, :8_820], mix_CT[:, -8_820:]
        return float(20 * torch.log10(last.std() / first.std()))

    stems_SCT = make_stems()
    assert swell_db(stems_SCT) > 13
    assert swell_db(degrade(stems_SCT, "over-compression", 1.0, seed=1)) < 3


def test_silence_stays_silent_and_nonsense_is_refused() -> None:
    silence_SCT = torch.zeros(4, 2, 1_000)
    for kind in DEGRADATIONS:
        assert torch.equal(degrade(silence_SCT, kind, 1.0, seed=1), silence_SCT)
    for kind, severity in (("wow", 0.5), ("noise", 1.5), ("noise", math.nan)):
        with pytest.raises(ValueError, match="expected one of"):
            degrade(silence_SCT, kind, severity, seed=1)
