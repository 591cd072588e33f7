import pytest
import torch
from torch import Tensor

from mixprint.cascade.likeness import Character, Likeness
from mixprint.cascade.maskings import MASKINGS, masked_mix
from tests.cascade.pieces import RATE_HZ, piece

INPUT, TARGET = piece(0), piece(1)


def stereo(mono_T: Tensor) -> Tensor:
    return torch.stack([mono_T, 0.5 * mono_T])


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_mask_divides(masking: str) -> None:
    found = masked_mix(stereo(INPUT.mix), stereo(TARGET.mix), masking, RATE_HZ)
    assert found.audio_CT.shape == (2, len(INPUT.mix))
    assert 0 <= found.mask_FN.min() < found.mask_FN.max() <= 1
    assert 0.02 < found.mask_FN.mean() < 0.98
    exchanged = masked_mix(stereo(TARGET.mix), stereo(INPUT.mix), masking, RATE_HZ)
    assert not torch.allclose(found.audio_CT, exchanged.audio_CT, atol=1e-3) or masking == "energy"


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_song_with_itself_is_itself(masking: str) -> None:
    song_CT = stereo(INPUT.mix)
    found = masked_mix(song_CT, song_CT, masking, RATE_HZ)
    torch.testing.assert_close(found.audio_CT, song_CT, atol=1e-5, rtol=1e-5)


def test_energy_takes_what_is_louder() -> None:
    loud_CT, soft_CT = stereo(INPUT.mix), 0.01 * stereo(TARGET.mix)
    for songs in ((loud_CT, soft_CT), (soft_CT, loud_CT)):
        found = masked_mix(*songs, "energy", RATE_HZ).audio_CT
        error_db = 10 * torch.log10((found - loud_CT).square().sum() / loud_CT.square().sum())
        assert error_db < -25


def test_frequency_divides_by_rows() -> None:
    found = masked_mix(stereo(INPUT.mix), torch.zeros(2, len(INPUT.mix)), "frequency", RATE_HZ)
    power_F = torch.fft.rfft(found.audio_CT[0]).abs().square()
    hz_F = torch.arange(len(power_F)) * RATE_HZ / len(INPUT.mix)
    between = power_F[(hz_F > 300) & (hz_F < 5_500)].sum()
    assert between < 1e-3 * power_F.sum()


@pytest.mark.parametrize("masking", ["spectral", "temporal", "hybrid"])
def test_rhythm_comes_from_the_input_and_harmony_from_the_target(masking: str) -> None:
    mix_CT = masked_mix(INPUT.mix[None], TARGET.mix[None], masking, RATE_HZ).audio_CT
    songs = (Character.of(each.mix, RATE_HZ) for each in (INPUT, TARGET))
    assert Likeness.of(Character.of(mix_CT[0], RATE_HZ), *songs).score > 0.2


def test_silent_songs_make_silence() -> None:
    for masking in MASKINGS:
        found = masked_mix(torch.zeros(2, RATE_HZ), torch.zeros(2, RATE_HZ), masking, RATE_HZ)
        assert not found.audio_CT.any()


def test_other_shapes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expected songs of one shape"):
        masked_mix(torch.zeros(2, RATE_HZ), torch.zeros(1, RATE_HZ), "energy", RATE_HZ)
    with pytest.raises(KeyError):
        masked_mix(torch.zeros(2, RATE_HZ), torch.zeros(2, RATE_HZ), "luck", RATE_HZ)
