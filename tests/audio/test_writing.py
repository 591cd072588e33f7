from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio import writing
from mixprint.audio.writing import StereoFile, common_gain
from mixprint.errors import DataError
from mixprint.stems import SAMPLE_RATE_HZ


def write(path: Path, audio_CT: Tensor, bit_depth: str, gain: float = 1.0) -> Path:
    file = StereoFile(
        path, bit_depth=bit_depth, sample_rate_hz=SAMPLE_RATE_HZ, num_declared=audio_CT.shape[1]
    )
    with file:
        for piece_CT in audio_CT.split(700, dim=1):
            file.add(piece_CT)
        file.finish(gain)
    return path


@pytest.mark.parametrize("bits", [16, 24])
def test_integers_are_rounded_and_stay_within_the_format(tmp_path: Path, bits: int) -> None:
    step = 2.0 ** (1 - bits)
    steps_T = torch.tensor([0.4, 0.6, -0.6, 1.5, 2.5, 1 / step, -1 / step], dtype=torch.float64)
    audio_CT = (steps_T * step).float().expand(2, -1)
    # Halves to the even neighbour; +1 is one step more than there is.
    expected = [0, 1, -1, 2, 2, 1 / step - 1, -1 / step]
    for suffix in ("wav", "flac"):
        path = write(tmp_path / f"stem.{suffix}", audio_CT, str(bits))
        found_TC, _ = sf.read(path)
        assert (found_TC / step).T.tolist() == [expected, expected]


def test_pieces_make_one_file_with_one_gain(tmp_path: Path) -> None:
    audio_CT = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    found_TC, rate_hz = sf.read(write(tmp_path / "a.wav", audio_CT, "24", gain=0.1))
    assert rate_hz == SAMPLE_RATE_HZ
    torch.testing.assert_close(
        torch.from_numpy(found_TC.T), 0.1 * audio_CT.double(), rtol=0, atol=2.0**-24
    )
    found_TC, _ = sf.read(write(tmp_path / "b.wav", audio_CT, "float32"), dtype="float32")
    assert torch.equal(torch.from_numpy(found_TC.T), audio_CT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize(("bit_depth", "num_bytes"), [("16", 2), ("24", 3), ("float32", 4)])
def test_a_large_wav_becomes_rf64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bit_depth: str, num_bytes: int
) -> None:
    audio_CT = torch.zeros(2, 1000)
    for most, header in ((2 * 1000 * num_bytes, b"RIFF"), (2 * 1000 * num_bytes - 1, b"RF64")):
        monkeypatch.setattr(writing, "MAX_WAV_BYTES", most)
        path = write(tmp_path / "stem.wav", audio_CT, bit_depth)
        assert path.read_bytes()[:4] == header
        assert sf.info(path).frames == 1000


def test_a_file_that_cannot_be_written_is_named_with_its_song(tmp_path: Path) -> None:
    (tmp_path / "song" / "bass.wav").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot write bass\.wav"):
        write(tmp_path / "song" / "bass.wav", torch.zeros(2, 9), "float32")


def test_the_gain_brings_the_highest_peak_to_full_scale() -> None:
    assert common_gain("16", iter([0.5, 1.0])) == 1 - 2.0**-15
    assert common_gain("24", iter([0.5, 4.0])) == (1 - 2.0**-23) / 4
    assert common_gain("16", iter([0.5, 1 - 2.0**-15])) == 1.0
    assert common_gain("float32", iter([7.0])) == 1.0
