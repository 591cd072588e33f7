"""Compressed spectra: there and back, and scaled alike in every row."""

import pytest
import torch

from mixprint.separation.diffusion.spectrum import (
    DEVIATION,
    KNEE,
    Compression,
    compressed,
    fitted_scales,
)

ROWS = 64


def _spectrum(level: float = 1.0) -> torch.Tensor:
    """Louder at the bottom than on top, by 60 dB."""
    generator = torch.Generator().manual_seed(0)
    real, imag = torch.randn(2, 1, 2, ROWS, 200, generator=generator)
    return level * torch.complex(real, imag) * torch.logspace(0, -3, ROWS)[:, None]


@pytest.mark.parametrize("power", [0.3, 0.5, 1.0])
def test_expansion_inverts_compression_at_any_level(power: float) -> None:
    compression = Compression(ROWS, power)
    compression.scales_F.copy_(torch.linspace(0.1, 2, ROWS))
    for level in (10.0, 1.0, KNEE, KNEE / 100):
        spectrum = _spectrum(level)
        found = compression.expand(compression.compress(spectrum))
        assert (found - spectrum).abs().max() < 1e-5 * spectrum.abs().max()


def test_magnitudes_are_raised_and_phases_kept() -> None:
    spectrum = torch.tensor([3 + 4j, -0.25j])
    torch.testing.assert_close(compressed(spectrum, 0.5), spectrum / torch.tensor([5**0.5, 0.5]))


@pytest.mark.parametrize("power", [0.3, 0.5])
def test_silence_is_silence_with_a_finite_gradient(power: float) -> None:
    compression = Compression(2, power)
    spectrum = torch.zeros(1, 1, 2, 3, dtype=torch.complex64, requires_grad=True)
    there = compression.compress(spectrum)
    again = compression.expand(there)
    assert not there.any()
    assert not again.any()
    torch.view_as_real(there + again).sum().backward()
    assert spectrum.grad is not None
    # The slope below the knee, and that of the identity.
    expected = torch.full_like(spectrum, complex(KNEE ** (power - 1) + 1, KNEE ** (power - 1) + 1))
    torch.testing.assert_close(spectrum.grad, expected)


def test_fitted_scales_bring_every_row_to_one_deviation() -> None:
    spectrum = _spectrum()
    compression = Compression(ROWS, 0.5)
    compression.scales_F.copy_(fitted_scales([spectrum[..., :50], spectrum[..., 50:]], 0.5))
    found_F = torch.view_as_real(compression.compress(spectrum)).square().mean(dim=(0, 1, 3, 4))
    # Within what the average over an octave of such a slope may do.
    assert (found_F.sqrt() / DEVIATION).log2().abs().max() < 1
    torch.testing.assert_close(fitted_scales([spectrum], 0.5), compression.scales_F)
    flat = torch.complex(*torch.randn(2, 1, 2, ROWS, 500))
    compression.scales_F.copy_(fitted_scales([flat], 0.5))
    assert torch.view_as_real(compression.compress(flat)).square().mean().sqrt().item() == (
        pytest.approx(DEVIATION, rel=1e-2)
    )


def test_a_silent_row_has_a_scale_and_silence_has_none() -> None:
    spectrum = _spectrum()
    spectrum[:, :, 40:] = 0
    scales_F = fitted_scales([spectrum], 0.5)
    assert scales_F.min() > 0
    with pytest.raises(ValueError, match="not silent"):
        fitted_scales([torch.zeros(1, 2, 8, 3, dtype=torch.complex64)], 0.5)
    with pytest.raises(ValueError, match="not silent"):
        fitted_scales([], 0.5)
