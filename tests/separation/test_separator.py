"""Overlap-add: what goes in comes out, whatever the windows and batches."""

from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor, nn

from mixprint.separation.metrics import evaluate_separator
from mixprint.separation.scnet import SCNET_STEMS, SCNetConfig, build_scnet
from mixprint.separation.separator import Separator, window_fade, window_starts
from mixprint.stems import STEMS

RATE_HZ = 44_100
GAIN = {"drums": 0.1, "bass": 0.2, "other": 0.3, "vocals": 0.4}


class _Gains(nn.Module):
    """Stands in for the network: each stem is the mixture at the gain of its name."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SCNetConfig()
        self.register_buffer("stft_window", torch.ones(1))
        self.batches: list[int] = []

    def forward(self, audio_BCT: Tensor) -> Tensor:
        self.batches.append(len(audio_BCT))
        gains = torch.tensor([GAIN[name] for name in SCNET_STEMS])
        return audio_BCT.unsqueeze(1) * gains.view(1, -1, 1, 1)


def _separator(model: nn.Module | None = None, window_s: float = 0.1) -> Separator:
    return Separator(model or _Gains(), fingerprint={"model": "test"}, window_s=window_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 100, 4409, 4410, 4411, 8820, 20_000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_stems_are_aligned_and_in_our_order(length: int, overlap: float, batch_size: int) -> None:
    audio_CT = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    stems_SCT = _separator().separate(audio_CT, overlap=overlap, batch_size=batch_size)
    expected = torch.stack([GAIN[stem] * audio_CT for stem in STEMS])
    torch.testing.assert_close(stems_SCT, expected, rtol=1e-5, atol=1e-6)


def test_windows_go_through_the_network_in_batches() -> None:
    model = _Gains()
    _separator(model).separate(torch.zeros(2, 44_100), overlap=0.5, batch_size=4)
    # 4410 samples a window, 2205 a hop: 19 windows.
    assert model.batches == [4, 4, 4, 4, 3]


@pytest.mark.parametrize("variant", ["plain", "masked"])
def test_result_does_not_depend_on_the_batch_size(variant: str) -> None:
    torch.manual_seed(0)
    config = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}
    separator = _separator(build_scnet(config, variant))
    audio_CT = 0.1 * torch.randn(2, 20_000)
    one, three = (separator.separate(audio_CT, batch_size=size) for size in (1, 3))
    torch.testing.assert_close(one, three, rtol=0, atol=1e-5)


def test_windows_cover_the_audio_to_its_end() -> None:
    assert window_starts(10, 10, 0.5) == [0]
    assert window_starts(3, 10, 0.5) == [0]
    assert window_starts(11, 10, 0.5) == [0, 1]
    assert window_starts(30, 10, 0.5) == [0, 5, 10, 15, 20]
    assert window_starts(31, 10, 0.0) == [0, 10, 20, 21]


def test_only_inner_edges_fade() -> None:
    assert window_fade(4, 2, first=True, last=True).tolist() == [1, 1, 1, 1]
    rising = window_fade(4, 2, first=False, last=True)
    torch.testing.assert_close(rising, torch.tensor([1 / 3, 2 / 3, 1, 1]))
    falling = window_fade(4, 2, first=True, last=False)
    torch.testing.assert_close(falling, rising.flip(0))
    # Above one half the two ramps meet: still nowhere zero.
    assert window_fade(4, 3, first=False, last=False).min() > 0


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 100), {}, "audio_CT"),
        ((2, 0), {}, "audio_CT"),
        ((2, 2, 100), {}, "audio_CT"),
        ((2, 100), {"overlap": 1.0}, "overlap"),
        ((2, 100), {"batch_size": 0}, "batch_size"),
        ((2, 100), {"window_s": 0.0}, "window_s"),
    ],
)
def test_wrong_arguments_are_refused(shape: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _separator().separate(torch.zeros(shape), **options)


def test_evaluation_of_known_gains(tmp_path: Path) -> None:
    # All stems are alike, so the mixture is four times a stem, and the estimate 4 g times it:
    # SDR = -20 log10 |1 - 4 g|.
    stem_CT = 0.1 * torch.randn(2, RATE_HZ, generator=torch.Generator().manual_seed(0))
    for stem in STEMS:
        (tmp_path / "song").mkdir(exist_ok=True)
        sf.write(tmp_path / "song" / f"{stem}.wav", stem_CT.T.numpy(), RATE_HZ, subtype="FLOAT")
    scores = evaluate_separator(_separator(), [tmp_path], max_duration_s=0.5)
    assert scores["drums"] == pytest.approx(4.437, abs=1e-2)  # 1 - 0.4
    assert scores["vocals"] == pytest.approx(4.437, abs=1e-2)  # 1 - 1.6
    assert scores["bass"] == pytest.approx(13.979, abs=1e-2)  # 1 - 0.8
    assert scores["average"] == pytest.approx((4 * 4.437 + 2 * 9.542) / 4, abs=1e-2)
