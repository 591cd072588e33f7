import torch
from torch import Tensor

from mixprint.dsp.rhythm import FRAMES_PER_S, onset_envelope, rhythm_likeness

RATE_HZ = 24_000
HOP = RATE_HZ // FRAMES_PER_S


def struck(*times_s: float, duration_s: float = 4.0) -> Tensor:
    """Return bursts of noise that die away: audio_1T."""
    generator = torch.Generator().manual_seed(0)
    audio_T = torch.zeros(int(duration_s * RATE_HZ))
    for time_s in times_s:
        start = int(time_s * RATE_HZ)
        length = min(len(audio_T) - start, RATE_HZ // 5)
        decay_T = torch.exp(-torch.arange(length) / (0.02 * RATE_HZ))
        audio_T[start : start + length] += decay_T * torch.randn(length, generator=generator)
    return audio_T[None]


FOURS = (0.2, 0.7, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7)
THREES = (0.33, 0.97, 1.5, 2.03, 2.56, 3.1, 3.5)


def test_onsets_are_where_something_begins() -> None:
    onset_N = onset_envelope(struck(*FOURS), RATE_HZ)[0]
    peaks = [int(onset_N[n : n + FRAMES_PER_S // 2].argmax()) + n for n in range(0, 263, 37)]
    for peak, time_s in zip(peaks, FOURS, strict=False):
        assert min(abs(peak / FRAMES_PER_S - each) for each in FOURS) < 0.04, time_s


def test_gain_changes_nothing() -> None:
    loud = onset_envelope(struck(*FOURS), RATE_HZ)
    torch.testing.assert_close(onset_envelope(0.01 * struck(*FOURS), RATE_HZ), loud)


def test_a_rhythm_is_like_itself_and_unlike_others() -> None:
    fours, threes = (onset_envelope(struck(*times), RATE_HZ) for times in (FOURS, THREES))
    assert rhythm_likeness(fours, fours).item() > 0.999
    assert rhythm_likeness(fours, threes).item() < 0.2
    other_sound = onset_envelope(struck(*FOURS).cumsum(dim=-1), RATE_HZ)
    assert rhythm_likeness(fours, other_sound).item() > 0.6


def test_two_frames_late_is_the_same_rhythm_and_ten_are_not() -> None:
    fours = onset_envelope(struck(*FOURS), RATE_HZ)
    for frames, low, high in ((2, 0.95, 1.0), (10, -1.0, 0.3)):
        late = onset_envelope(struck(*FOURS).roll(frames * HOP, -1), RATE_HZ)
        assert low <= rhythm_likeness(fours, late).item() <= high


def test_silence_and_noise_are_like_no_rhythm() -> None:
    fours = onset_envelope(struck(*FOURS), RATE_HZ)
    assert rhythm_likeness(fours, onset_envelope(torch.zeros(1, 4 * RATE_HZ), RATE_HZ)).item() == 0
    noise_1T = torch.randn(1, 4 * RATE_HZ, generator=torch.Generator().manual_seed(1))
    assert abs(rhythm_likeness(fours, onset_envelope(noise_1T, RATE_HZ)).item()) < 0.25
