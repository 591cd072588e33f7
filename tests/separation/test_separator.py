"""Overlap-add: what goes in comes out, whatever the windows and batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.separation.metrics import evaluate_separator
from mixprint.separation.scnet.architecture import SCNET_STEMS
from mixprint.separation.scnet.model import build_scnet
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.separation.separator import Separator, song_level, window_fade
from mixprint.stems import STEMS
from tests.separation.networks import ToyNetwork

RATE_HZ = 44_100
GAIN = {"drums": 0.1, "bass": 0.2, "other": 0.3, "vocals": 0.4}


class _Gains(ToyNetwork):
    """Stands in for the network: each stem is the mixture at the gain of its name."""

    def __init__(self, window_s: float = 0.1, *, normalised: bool = False) -> None:
        super().__init__(stems=SCNET_STEMS, window_s=window_s, normalised=normalised)
        self.batches: list[int] = []

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        self.batches.append(len(audio_BCT))
        gains = torch.tensor([GAIN[name] for name in SCNET_STEMS])
        return audio_BCT.unsqueeze(1) * gains.view(1, -1, 1, 1)


class _Edges(_Gains):
    """Gives each window back turned round: what a sample becomes depends on its window."""

    def __init__(self, window_s: float) -> None:
        super().__init__(window_s)
        self.starts: list[float] = []
        self.told_starts: list[int] = []

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        self.starts += audio_BCT[:, 0, 0].tolist()
        self.told_starts += starts_B.tolist()
        return super().__call__(audio_BCT.flip(-1), starts_B)


class _Numbers(_Gains):
    """Gives each window its number: 0 for the first, 1 for the next."""

    def __init__(self, window_s: float) -> None:
        super().__init__(window_s)
        self.number = 0

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        numbers_B = torch.arange(len(audio_BCT)) % 3 + self.number
        self.number = (self.number + len(audio_BCT)) % 3
        return numbers_B.view(-1, 1, 1, 1).float().expand(-1, 4, *audio_BCT.shape[1:])


def _separator(network: ToyNetwork | None = None) -> Separator:
    return Separator(network or _Gains())


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
    separator = Separator(TrainedSCNet(build_scnet(config, variant), window_s=0.1))
    audio_CT = 0.1 * torch.randn(2, 20_000)
    one, three = (separator.separate(audio_CT, batch_size=size) for size in (1, 3))
    torch.testing.assert_close(one, three, rtol=0, atol=1e-5)


def _blocks(audio_CT: Tensor, lengths: Sequence[int]) -> Iterator[Tensor]:
    """Cut audio into blocks of these lengths, over and over."""
    start = 0
    for length in cycle(lengths):
        yield audio_CT[:, start : start + length]
        start += length
        if start >= audio_CT.shape[1]:
            return


def _joined(pieces: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    mixtures, stems = zip(*pieces, strict=True)
    for mixture_CT, stems_SCT in zip(mixtures, stems, strict=True):
        assert stems_SCT.shape == (len(STEMS), *mixture_CT.shape)
        assert mixture_CT.shape[1] > 0
    return torch.cat(mixtures, dim=-1), torch.cat(stems, dim=-1)


@pytest.mark.parametrize("length", [1, 999, 1000, 1001, 1250, 1251, 5000, 7777])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
def test_neither_blocks_nor_batches_change_the_result(length: int, overlap: float) -> None:
    audio_CT = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    separator = _separator(_Edges(1000 / RATE_HZ))
    expected_SCT = separator.separate(audio_CT, overlap=overlap)
    for lengths in ([length], [1, 0, 37], [333, 2048], [1000], [1001, 250]):
        for batch_size in (1, 2, 3, 8):
            mixture_CT, stems_SCT = _joined(
                separator.stream(_blocks(audio_CT, lengths), overlap=overlap, batch_size=batch_size)
            )
            assert torch.equal(mixture_CT, audio_CT)
            assert torch.equal(stems_SCT, expected_SCT)


@pytest.mark.parametrize("block", [100, 1000, 3333])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_no_more_is_read_ahead_than_the_batch_needs(block: int, batch_size: int) -> None:
    window, hop, total = 1000, 750, 60_000
    num_read = num_given = 0

    def blocks() -> Iterator[Tensor]:
        nonlocal num_read
        for start in range(0, total, block):
            assert num_read - num_given <= window + batch_size * hop
            num_read = min(start + block, total)
            yield torch.zeros(2, num_read - start)

    separator = _separator(_Gains(window / RATE_HZ))
    for mixture_CT, _ in separator.stream(blocks(), batch_size=batch_size):
        num_given += mixture_CT.shape[1]
        # The audio may end where it has been read to: a window's length stays open.
        assert num_read - num_given <= max(window, window - hop + block)
    assert num_given == num_read == total


def test_windows_are_cut_in_steps_of_a_hop_and_the_last_ends_with_the_audio() -> None:
    model = _Edges(1000 / RATE_HZ)
    # Sample n is n, so the first sample of a window tells where it was cut.
    audio_CT = torch.arange(3100.0).expand(2, -1)
    _separator(model).separate(audio_CT, overlap=0.5, batch_size=2)
    assert model.starts == model.told_starts == [0, 500, 1000, 1500, 2000, 2100]


def test_first_and_last_windows_are_told_apart_within_a_batch() -> None:
    # Each window gives its own number, so the fades can be read from the sums.
    audio_CT = torch.zeros(2, 20)
    separator = _separator(_Numbers(8 / RATE_HZ))
    whole_SCT = separator.separate(audio_CT, overlap=0.25, batch_size=8)
    expected_T = torch.tensor([0.0] * 6 + [1 / 3, 2 / 3] + [1.0] * 4 + [4 / 3, 5 / 3] + [2.0] * 6)
    torch.testing.assert_close(whole_SCT, expected_T.expand(4, 2, -1))
    assert torch.equal(separator.separate(audio_CT, overlap=0.25, batch_size=1), whole_SCT)


def test_pieces_are_the_callers_own() -> None:
    audio_CT = torch.ones(2, 20_000)
    for mixture_CT, stems_SCT in _separator().stream([audio_CT]):
        assert (mixture_CT == 1).all()
        mixture_CT.zero_()
        stems_SCT.zero_()
    assert (audio_CT == 1).all()


def test_a_network_may_have_stems_of_its_own() -> None:
    separator = _separator(ToyNetwork(stems=("sides", "middle")))
    assert separator.stems == ("sides", "middle")
    assert _separator().stems == STEMS
    assert separator.separate(torch.ones(2, 9999)).shape == (2, 2, 9999)


def test_nothing_gives_nothing() -> None:
    assert list(_separator().stream([])) == []
    assert list(_separator().stream([torch.empty(2, 0)])) == []


def test_a_block_that_is_not_stereo_is_refused() -> None:
    with pytest.raises(ValueError, match="after 100 samples"):
        list(_separator().stream([torch.zeros(2, 100), torch.zeros(1, 100)]))


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
        ((2, 100), {"batch_size": -1}, "batch_size"),
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


class _Bent(_Gains):
    """Bends what it is given, so that its output depends on the level."""

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        return super().__call__(audio_BCT.tanh(), starts_B)


def test_a_normalised_separator_does_not_look_at_the_level(
    tmp_path: Path, write_song: Callable[..., Path]
) -> None:
    path = write_song(tmp_path / "song.wav", 0.5)
    audio_CT = read_audio(path)
    separator = Separator(_Bent(normalised=True))
    stems_SCT = separator.separate(audio_CT)
    torch.testing.assert_close(separator.separate(audio_CT / 8), stems_SCT / 8)
    deviation = audio_CT.mean(dim=0).std(correction=0)
    torch.testing.assert_close(stems_SCT[0], 0.4 * deviation * (audio_CT / deviation).tanh())
    streamed_SCT = torch.cat([piece for _, piece in separator.stream_file(path)], dim=-1)
    torch.testing.assert_close(streamed_SCT, stems_SCT)
    with pytest.raises(ValueError, match="level"):
        separator.stream([audio_CT])
    silence_CT = torch.zeros(2, 5000)
    assert torch.equal(separator.separate(silence_CT), torch.zeros(4, 2, 5000))
    plain = _separator(_Bent())
    torch.testing.assert_close(plain.separate(audio_CT)[0], 0.4 * audio_CT.tanh())
    torch.testing.assert_close(
        torch.cat([piece for _, piece in plain.stream_file(path)], dim=-1), plain.separate(audio_CT)
    )


def test_a_songs_level_is_its_deviation() -> None:
    blocks = [torch.tensor([[1.0, 5.0], [3.0, 3.0]]), torch.tensor([[0.0], [0.0]])]
    # Mono 2, 4, 0: mean 2, squares 4 + 16 + 0 over 3, less 4.
    assert song_level(blocks) == pytest.approx((20 / 3 - 4) ** 0.5)
    assert song_level([torch.full((2, 9), 0.25)]) == 1.0
    assert song_level([]) == 1.0
