import pytest
import torch
from torch import Tensor

from mixprint.dsp.chroma import NUM_CLASSES, chroma, harmony_likeness

RATE_HZ = 24_000
C_MAJOR, C_MAJOR_UP, F_SHARP_MAJOR = (60, 64, 67), (72, 76, 79), (66, 70, 73)


def chord(*pitches: int, duration_s: float = 2.0, partials: int = 4) -> Tensor:
    """Return notes with partials that fall with their number: audio_1T."""
    time_T = torch.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    audio_T = torch.zeros_like(time_T)
    for pitch in pitches:
        for partial in range(1, partials + 1):
            hz = 440 * 2 ** ((pitch - 69) / 12) * partial
            audio_T += torch.sin(2 * torch.pi * hz * time_T) / partial**2
    return 0.1 * audio_T[None]


@pytest.mark.parametrize("pitch", range(57, 81, 5))
def test_a_tone_is_its_pitch_class(pitch: int) -> None:
    chroma_KH = chroma(chord(pitch, partials=1), RATE_HZ)[0]
    assert chroma_KH.shape == (4, NUM_CLASSES)
    assert set(chroma_KH.argmax(dim=-1).tolist()) == {(pitch - 69) % 12}


def test_chords_are_like_their_octaves_and_unlike_others() -> None:
    here, above, far = (chroma(chord(*c), RATE_HZ) for c in (C_MAJOR, C_MAJOR_UP, F_SHARP_MAJOR))
    assert harmony_likeness(here, here).item() > 0.999
    assert harmony_likeness(here, above).item() > 0.8
    assert harmony_likeness(here, far).item() < 0


def test_gain_changes_nothing() -> None:
    here = chroma(chord(*C_MAJOR), RATE_HZ)
    torch.testing.assert_close(chroma(0.01 * chord(*C_MAJOR), RATE_HZ), here, atol=1e-5, rtol=0)


def test_silent_blocks_are_like_nothing_and_do_not_count_where_both_are() -> None:
    half = torch.cat([chord(*C_MAJOR, duration_s=1.0), torch.zeros(1, RATE_HZ)], dim=-1)
    chroma_1KH = chroma(half, RATE_HZ)
    assert not chroma_1KH[0, 3].any()
    assert harmony_likeness(chroma_1KH, chroma_1KH).item() > 0.999
    silence = chroma(torch.zeros(1, 2 * RATE_HZ), RATE_HZ)
    assert harmony_likeness(chroma_1KH, silence).item() == 0
    assert harmony_likeness(silence, silence).item() == 0


def test_what_is_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 12000 samples, got 100"):
        chroma(torch.zeros(1, 100), RATE_HZ)
