"""Saturation: its curve, what it leaves alone, its aliasing, and the same in blocks."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.dsp import drive
from mixprint.dsp.drive import CONTEXT_SAMPLES, StreamedDrive, driven

RATE_HZ = 44_100


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sine(freq_hz: float, amplitude: float, num_samples: int = RATE_HZ) -> Tensor:
    time_T = torch.arange(num_samples, dtype=torch.float64) / RATE_HZ
    return (amplitude * torch.sin(2 * math.pi * freq_hz * time_T))[None, None]


def spectrum_db(audio_T: Tensor) -> np.ndarray:
    """One bin per Hz, 0 dB for a sine of amplitude 1."""
    return 20 * np.log10(np.abs(np.fft.rfft(audio_T.numpy())) * 2 / RATE_HZ + 1e-12)


def test_a_mix_of_nothing_is_the_input_to_the_bit() -> None:
    audio_BCT = torch.randn(2, 2, 1000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(driven(audio_BCT, of(12.0, 24.0), of(0.0, 0.0)), audio_BCT)


def test_slow_sounds_follow_the_curve() -> None:
    audio_BCT = sine(20.0, 0.8)
    for drive_db, mix in ((0.0, 1.0), (12.0, 1.0), (12.0, 0.4)):
        drive = 10 ** (drive_db / 20)
        curve_BCT = torch.tanh(drive * audio_BCT) / drive
        expected_BCT = audio_BCT + mix * (curve_BCT - audio_BCT)
        error_BCT = driven(audio_BCT, of(drive_db), of(mix)) - expected_BCT
        assert float(error_BCT[..., 100:-100].abs().amax()) < 2e-5


def test_quiet_sounds_keep_their_level_and_nothing_is_delayed() -> None:
    generator = torch.Generator().manual_seed(2)
    audio_BCT = 1e-4 * torch.randn(1, 2, 4096, generator=generator, dtype=torch.float64)
    error_BCT = driven(audio_BCT, of(12.0), of(1.0)) - audio_BCT
    assert float(error_BCT.abs().amax()) < 1e-5 * float(audio_BCT.abs().amax())


@pytest.mark.parametrize("freq_hz", [4_999.0, 9_001.0])
def test_harmonics_do_not_alias(freq_hz: float) -> None:
    """What lies on no harmonic is 50 dB down where a plain curve has it at 12 to 20."""
    audio_BCT = sine(freq_hz, 0.5)
    is_harmonic = np.zeros(RATE_HZ // 2 + 1, dtype=bool)
    is_harmonic[:: round(freq_hz)] = True
    plain_db = spectrum_db((torch.tanh(8 * audio_BCT) / 8)[0, 0])
    found_db = spectrum_db(driven(audio_BCT, of(20 * math.log10(8)), of(1.0))[0, 0])
    alias_db, plain_alias_db = (db[~is_harmonic].max() for db in (found_db, plain_db))
    assert alias_db < found_db[round(freq_hz)] - 50
    assert alias_db < plain_alias_db - 40


def test_blocks_give_what_one_pass_gives() -> None:
    generator = torch.Generator().manual_seed(3)
    audio_BCT = torch.randn(2, 2, 3000, generator=generator, dtype=torch.float64)
    drive_db_B, mix_B = of(6.0, 18.0), of(1.0, 0.3)
    stream = StreamedDrive(drive_db_B, mix_B, 2)
    done = [stream.add(block_BCT) for block_BCT in audio_BCT.split([1, 7, 500, 64, 2428], dim=-1)]
    found_BCT = torch.cat([*done, stream.finish()], dim=-1)
    assert found_BCT.shape == audio_BCT.shape
    torch.testing.assert_close(found_BCT, driven(audio_BCT, drive_db_B, mix_B), rtol=0, atol=1e-12)


def test_an_output_depends_on_its_context_alone() -> None:
    audio_BCT = sine(3_000.0, 0.9, 400)
    changed_BCT = audio_BCT.clone()
    changed_BCT[..., 200] += 0.5
    moved = [driven(x, of(20.0), of(1.0)) for x in (audio_BCT, changed_BCT)]
    is_other_T = (moved[0] != moved[1])[0, 0].nonzero()[:, 0]
    assert (
        200 - CONTEXT_SAMPLES <= int(is_other_T[0]) < int(is_other_T[-1]) <= 200 + CONTEXT_SAMPLES
    )


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(4)
    audio_BCT = torch.randn(2, 1, 40, generator=generator, dtype=torch.float64)
    audio_BCT[1, 0, 10:20] = 0.0
    inputs = [x.requires_grad_() for x in (audio_BCT, of(6.0, 20.0), of(0.0, 0.7))]
    assert torch.autograd.gradcheck(driven, inputs, eps=1e-5, atol=1e-4, rtol=1e-3)


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound, and gradients of all arguments; the last piece is no whole block of the filters."""
    generator = torch.Generator().manual_seed(5)
    audio_BCT = torch.randn(2, 2, 301, generator=generator, dtype=torch.float64)
    weights_BCT = torch.randn(2, 2, 301, generator=generator, dtype=torch.float64)

    def results() -> list[Tensor]:
        inputs = [x.clone().requires_grad_() for x in (audio_BCT, of(6.0, 18.0), of(1.0, 0.3))]
        driven_BCT = driven(*inputs)
        return [driven_BCT, *torch.autograd.grad((driven_BCT * weights_BCT).sum(), inputs)]

    whole = results()
    monkeypatch.setattr(drive, "_PIECE_VALUES", 1)
    monkeypatch.setattr(drive, "_LEAST_SAMPLES", 40)
    for one, other in zip(whole, results(), strict=True):
        # A gradient holds differences over steps, which round.
        torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
