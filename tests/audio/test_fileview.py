import os
from pathlib import Path

import soundfile as sf
import torch

from mixprint.audio.fileview import FileView, Piece

PIECES: list[Piece] = [b"ab", range(2, 5), b"", b"Z", range(7, 7), range(5, 9)]
EXPECTED = b"ab234Z5678"


def view_of(tmp_path: Path) -> FileView:
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    return FileView(path.open("rb"), PIECES)


def test_every_part_of_the_view_is_the_part_of_its_bytes(tmp_path: Path) -> None:
    with view_of(tmp_path) as view:
        assert view.read() == EXPECTED
        for start in range(len(EXPECTED) + 2):
            for length in range(len(EXPECTED) + 2):
                assert view.seek(start) == start
                assert view.read(length) == EXPECTED[start : start + length]
        assert view.seek(-3, os.SEEK_END) == 7
        assert view.seek(1, os.SEEK_CUR) == view.tell() == 8
        assert view.read() == b"78"


def test_a_file_that_became_shorter_ends_the_view(tmp_path: Path) -> None:
    with view_of(tmp_path) as view:
        os.truncate(tmp_path / "digits", 4)
        assert view.read(10) == b"ab23"


def test_closing_the_view_closes_the_file(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb+") as file:
        FileView(file, []).close()
        assert file.closed


def test_libsndfile_reads_a_view(tmp_path: Path) -> None:
    samples_T = torch.arange(-1_000, 1_000, dtype=torch.int16).numpy()
    sf.write(tmp_path / "a.wav", samples_T, 44_100)
    size = (tmp_path / "a.wav").stat().st_size
    # The same header, and of the audio only what lies behind the first 100 samples.
    with FileView((tmp_path / "a.wav").open("rb"), [range(44), range(244, size)]) as view:
        read_T, _ = sf.read(view, dtype="int16")
    assert (read_T == samples_T[100:]).all()
