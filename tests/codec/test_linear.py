import pytest
import torch
from torch import Tensor

from mixprint.codec.interface import HOP_SAMPLES, NUM_DIMENSIONS, num_frames
from mixprint.codec.linear import LinearCodec, inverse_mdct, mdct


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return torch.randn(2, num_samples, generator=torch.Generator().manual_seed(seed))


def music() -> Tensor:
    """Return noise that has hardly any treble: audio_BT."""
    audio_BT = noise(12_000).cumsum(dim=-1)
    return audio_BT - audio_BT.mean(dim=-1, keepdim=True)


def error_db(found: Tensor, truth: Tensor) -> float:
    return float(10 * torch.log10((found - truth).square().sum() / truth.square().sum()))


@pytest.mark.parametrize("num_samples", [1, 319, 320, 321, 12_345])
def test_the_transform_loses_nothing(num_samples: int) -> None:
    audio_BT = noise(num_samples)
    coefficients_BKN = mdct(audio_BT)
    assert coefficients_BKN.shape == (2, HOP_SAMPLES, num_frames(num_samples))
    assert error_db(inverse_mdct(coefficients_BKN, num_samples), audio_BT) < -100


def test_the_transform_keeps_energies() -> None:
    audio_BT = noise(5_000)
    torch.testing.assert_close(mdct(audio_BT).square().sum(), audio_BT.square().sum())


def test_a_tone_is_in_its_row() -> None:
    audio_1T = torch.sin(2 * torch.pi * 1_000 * torch.arange(24_000) / 24_000)[None]
    row = mdct(audio_1T)[0, :, 10:-10].square().sum(dim=-1).argmax()
    assert abs(float(row) + 0.5 - 1_000 / 37.5) <= 1


def test_with_all_directions_nothing_is_lost() -> None:
    codec = LinearCodec.fitted([noise(12_000)], HOP_SAMPLES)
    audio_BT = noise(7_001, seed=1)
    assert error_db(codec.decode(codec.encode(audio_BT), 7_001), audio_BT) < -100


def test_the_directions_are_those_of_music() -> None:
    codec = LinearCodec.fitted([music()])
    z_BDN = codec.encode(music())
    assert z_BDN.shape == (2, NUM_DIMENSIONS, num_frames(12_000))
    assert error_db(codec.decode(z_BDN, 12_000), music()) < -20
    assert error_db(codec.decode(codec.encode(noise(12_000)), 12_000), noise(12_000)) > -4
    assert (codec.deviation_D.diff() <= 0).all()
    torch.testing.assert_close(z_BDN.square().mean(dim=(0, 2)).sqrt(), codec.deviation_D)


def test_latents_are_linear_in_the_audio() -> None:
    codec = LinearCodec.fitted([music()])
    a, b = noise(4_000), noise(4_000, seed=1)
    both = codec.encode(a + b)
    torch.testing.assert_close(both, codec.encode(a) + codec.encode(b), atol=1e-4, rtol=1e-4)
    assert not codec.encode(torch.zeros(1, 4_000)).any()


def test_latents_of_another_length_are_refused() -> None:
    codec = LinearCodec.fitted([music()])
    with pytest.raises(ValueError, match="expected the 14 latents of 4000 samples, got 13"):
        codec.decode(codec.encode(noise(3_840)), 4_000)


def test_silence_has_no_directions() -> None:
    with pytest.raises(ValueError, match="not silent"):
        LinearCodec.fitted([torch.zeros(1, 4_000)])
