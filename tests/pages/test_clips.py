import io

import numpy as np
import pytest
import soundfile as sf
import torch

from mixprint.pages.clips import make_clip

RATE_HZ = 44_100


def test_a_clip_fades_and_is_cut() -> None:
    clip = make_clip(
        "<i>", torch.ones(2, RATE_HZ), RATE_HZ, max_duration_s=0.5, player_rate_hz=RATE_HZ
    )
    assert clip.caption == "<i>"
    audio, _ = sf.read(io.BytesIO(clip.flac))
    assert len(audio) == RATE_HZ // 2
    assert audio[0, 0] == audio[-1, 0] == 0
    assert audio[RATE_HZ // 4, 0] == pytest.approx(1, abs=1e-3)


def test_a_clip_beyond_full_scale_is_lowered_and_says_so() -> None:
    wave_CT = 2.0 * torch.sin(torch.arange(RATE_HZ) / 10).expand(2, -1)
    clip = make_clip("hot", wave_CT, RATE_HZ, max_duration_s=1.0, player_rate_hz=RATE_HZ)
    assert clip.caption == "hot (played 6.0 dB lower)"
    audio, _ = sf.read(io.BytesIO(clip.flac))
    inner = slice(RATE_HZ // 4, RATE_HZ // 2)
    np.testing.assert_allclose(audio[inner], wave_CT.T.numpy()[inner] / 2, atol=1e-4)
