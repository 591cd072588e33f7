from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, write_audio
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.transfer import stem_store
from mixprint.transfer.effect import InWindows
from mixprint.transfer.excerpts import load_whole
from mixprint.transfer.rendering import regular_blocks, write_output
from mixprint.transfer.settings import Controls
from tests.transfer.test_excerpts import SplitSeparator
from tests.transfer.trials import settings


class Halved:
    """An effect that needs context, and halves what it is given."""

    context_samples = 1000
    hop_samples = 7

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        return stems_SCT * (1 - amount_S / 2).view(-1, 1, 1)

    def to(self, device: object) -> "Halved":
        return self


def test_the_song_is_read_once_and_the_draft_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    song_CT = 0.1 * torch.randn(2, 7 * SAMPLE_RATE_HZ, generator=generator)
    write_audio(tmp_path / "song.wav", song_CT, SAMPLE_RATE_HZ, subtype="FLOAT")
    song = load_whole(tmp_path / "song.wav", settings(), SplitSeparator(), tmp_path / "stems")
    reads: Counter[str] = Counter()

    def counted(path: Path, **more: Any) -> Generator[Tensor, None, None]:
        reads[str(path.relative_to(tmp_path))] += 1
        return stream_audio(path, **more)

    stream_audio: Callable[..., Generator[Tensor, None, None]] = stem_store.stream_audio
    monkeypatch.setattr(stem_store, "stream_audio", counted)
    rendered = write_output(
        song,
        tmp_path / "out",
        Controls(apply_to="song", loudness="keep"),
        InWindows(Halved()),
        target_lufs=-20.0,
        device="cpu",
        notes=[],
    )
    assert set(reads.values()) == {1}
    assert len(reads) == 2 * (1 + len(STEMS))
    # The vocals are the left side, the bass the right, drums a half: what is left of each half of
    # them is a quarter of the song, which keeps its loudness.
    assert rendered.values["loudness_gain_db"] == pytest.approx(20 * torch.tensor(4.0).log10())
    original_CT = read_audio(tmp_path / "out" / "input_original.wav")
    output_CT = read_audio(tmp_path / "out" / "output_transferred.wav")
    assert torch.equal(original_CT, song_CT)
    torch.testing.assert_close(output_CT, rendered.gain * song_CT / 4, atol=1e-6, rtol=1e-5)
    assert not list((tmp_path / "out").glob(".*"))


def test_blocks_are_cut_anew() -> None:
    whole_CT = torch.arange(10.0).expand(2, -1)
    blocks = list(regular_blocks(whole_CT.split([3, 1, 6], dim=-1), 4))
    assert [block.shape[-1] for block in blocks] == [4, 4, 2]
    assert torch.equal(torch.cat(blocks, dim=-1), whole_CT)
    assert list(regular_blocks([], 4)) == []
