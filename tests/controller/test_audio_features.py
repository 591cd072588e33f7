import math

import pytest
import torch

from mixprint.controller.audio_features import WEIGHTS, audio_feature_terms, audio_features

RATE_HZ = 44_100


def stereo(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, 2, RATE_HZ, generator=generator)


def test_features_have_closed_forms() -> None:
    time_T = torch.arange(RATE_HZ) / RATE_HZ
    sine_T = torch.sin(2 * math.pi * 1_000 * time_T)
    left_1CT = torch.stack([sine_T, 0 * sine_T])[None]
    found = audio_features(left_1CT, RATE_HZ)
    assert found["rms"][0].tolist() == pytest.approx([math.sqrt(0.5), 1e-4], rel=1e-3)
    assert float(found["crest"][0, 0]) == pytest.approx(3.01, abs=0.01)
    assert float(found["width"]) == pytest.approx(1.0)
    assert float(found["imbalance"]) == pytest.approx(-1.0, abs=1e-6)
    # Mid and side are half as loud: -6 dB of a power of 1/2, in the band from 920 to 1080 Hz.
    assert found["bark"][0, :, 8].tolist() == pytest.approx([math.log(0.125) / 2] * 2, abs=0.15)


def test_the_distance_counts_each_feature_by_its_weight() -> None:
    mix_1CT = stereo()
    assert sum(float(v) for v in audio_feature_terms(mix_1CT, mix_1CT, RATE_HZ).values()) == 0.0
    louder = audio_feature_terms(2 * mix_1CT, mix_1CT, RATE_HZ)
    assert float(louder["bark"]) == pytest.approx(WEIGHTS["bark"] * math.log(2) ** 2, rel=0.01)
    assert float(louder["width"]) == pytest.approx(0.0, abs=1e-6)
    # Other noise of the same kind is near, and a mono mix no infinite distance.
    other = audio_feature_terms(stereo(1), mix_1CT, RATE_HZ)
    assert sum(float(v) for v in other.values()) < 0.01
    mono = audio_feature_terms(mix_1CT.mean(1, keepdim=True).expand(-1, 2, -1), mix_1CT, RATE_HZ)
    assert 0.9 < float(mono["width"]) < 1.1
    assert float(mono["bark"]) < 3.0


def test_gradients_of_silence_are_finite() -> None:
    silent_1CT = torch.zeros(1, 2, 4096, requires_grad=True)
    terms = audio_feature_terms(silent_1CT, stereo()[..., :8192], RATE_HZ)
    torch.stack(list(terms.values())).sum().backward()
    assert silent_1CT.grad is not None
    assert silent_1CT.grad.isfinite().all()
