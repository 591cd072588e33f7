"""A song's stem files: alignment, formats, gain, residual, and what a killed run leaves."""

import fcntl
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.files import read_audio, stream_audio
from mixprint.errors import AudioError, ConfigError, DataError
from mixprint.fingerprint import file_sha256
from mixprint.separation import Separator, build_scnet
from mixprint.separation.files import FileSettings, distribute_residual, separate_file
from mixprint.separation.nulltest import NullTest
from mixprint.separation.report import REPORT_NAME, SeparationReport
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import read_json

SHARES = (0.4, 0.3, 0.2, 0.05)  # of the mixture: 5 % are missing


class SharesSeparator:
    """Stands for a trained separator: each stem is a share of the mixture."""

    sample_rate_hz = SAMPLE_RATE_HZ
    window_s = 4.0
    stems = STEMS
    network = None
    precision = "float32"
    fingerprint = {"model": "shares", "checkpoint_sha256": "0"}  # noqa: RUF012 (read only)

    def __init__(self, shares: tuple[float, ...] = SHARES) -> None:
        self.shares_S11 = torch.tensor(shares).view(-1, 1, 1)

    def stream_file(self, path: Path, **_: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for block_CT in stream_audio(path):
            for piece_CT in block_CT.split(10_000, dim=1):
                yield piece_CT, self.shares_S11 * piece_CT


@pytest.fixture
def song(tmp_path: Path, write_song: Callable[..., Path]) -> Path:
    return write_song(tmp_path / "song.wav", 2.0)


def separate(song: Path, folder: Path, separator: Any = None, **settings: Any) -> SeparationReport:
    report, _ = separate_file(
        separator or SharesSeparator(), song, folder, FileSettings(**settings)
    )
    assert read_json(folder / REPORT_NAME)["files"] == list(report.files)
    assert sorted([*report.files, REPORT_NAME]) == sorted(p.name for p in folder.iterdir())
    assert not list(folder.parent.glob(".*"))
    return report


def read_stems(folder: Path, suffix: str = "wav") -> dict[str, Tensor]:
    return {p.stem: read_audio(p) for p in folder.glob(f"*.{suffix}")}


def test_stems_are_those_of_the_separator(tmp_path: Path, song: Path) -> None:
    report = separate(song, tmp_path / "out")
    audio_CT = read_audio(song)
    for share, stem in zip(SHARES, STEMS, strict=True):
        torch.testing.assert_close(read_stems(tmp_path / "out")[stem], share * audio_CT)
    assert report.num_samples == audio_CT.shape[1]
    assert report.duration_s == 2.0
    assert report.sha256 == file_sha256(song)
    assert report.separator == SharesSeparator.fingerprint
    assert report.settings["window_s"] == 4.0
    assert report.null_depth_db == pytest.approx(-26.0206, abs=1e-3)  # 5 % of the amplitude
    assert report.final_null_depth_db == report.null_depth_db
    peak_dbfs = 20 * torch.log10(audio_CT.abs().max()).item()
    assert report.levels["vocals"]["peak_dbfs"] == pytest.approx(peak_dbfs - 7.9588, abs=1e-3)
    # Each stem is nothing but a copy of any other, but a quiet one cannot make a louder one.
    assert report.leakage_db["bass"]["vocals"] == pytest.approx(0, abs=1e-2)
    assert report.leakage_db["vocals"]["bass"] == pytest.approx(-2.4988, abs=1e-2)


def test_a_network_gives_the_same_as_in_memory(tmp_path: Path, song: Path) -> None:
    torch.manual_seed(0)
    values = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}
    weights = {"model": "tiny", "checkpoint_sha256": "0"}
    network = TrainedSCNet(build_scnet(values, "plain"), window_s=0.5, weights=weights)
    separator = Separator(network)
    separate(song, tmp_path / "out", separator, overlap=0.5, batch_size=2)
    expected_SCT = separator.separate(read_audio(song), overlap=0.5)
    found = read_stems(tmp_path / "out")
    for stem, stem_CT in zip(STEMS, expected_SCT, strict=True):
        torch.testing.assert_close(found[stem], stem_CT, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "bit_depth", "subtype"),
    [
        ("wav", "16", "PCM_16"),
        ("wav", "24", "PCM_24"),
        ("wav", "float32", "FLOAT"),
        ("flac", "16", "PCM_16"),
        ("flac", "24", "PCM_24"),
    ],
)
def test_formats(tmp_path: Path, song: Path, container: str, bit_depth: str, subtype: str) -> None:
    report = separate(song, tmp_path / "out", container=container, bit_depth=bit_depth)
    assert report.gain == 1.0
    info = sf.info(tmp_path / "out" / f"bass.{container}")
    assert (info.subtype, info.samplerate, info.channels) == (subtype, SAMPLE_RATE_HZ, 2)
    step = 0.0 if bit_depth == "float32" else 2.0 ** (1 - int(bit_depth))
    error_CT = read_stems(tmp_path / "out", container)["bass"] - 0.3 * read_audio(song)
    assert error_CT.abs().max() <= step / 2 + 1e-7  # rounded, not cut off


@pytest.mark.parametrize("bit_depth", ["16", "24"])
def test_one_recorded_gain_keeps_all_files_within_full_scale(
    tmp_path: Path, song: Path, bit_depth: str
) -> None:
    loud = SharesSeparator((8.0, 2.0, 0.5, 0.25))
    report = separate(song, tmp_path / "out", loud, bit_depth=bit_depth)
    audio_CT = read_audio(song)
    highest = 1 - 2.0 ** (1 - int(bit_depth))
    assert report.gain == pytest.approx(highest / (8 * audio_CT.abs().max().item()))
    assert 10 ** (report.gain_db / 20) == pytest.approx(report.gain)
    found = read_stems(tmp_path / "out")
    for share, stem in zip((8.0, 2.0, 0.5, 0.25), STEMS, strict=True):
        expected_CT = report.gain * share * audio_CT
        torch.testing.assert_close(found[stem], expected_CT, rtol=0, atol=2.0 ** -int(bit_depth))
    assert found["vocals"].abs().max() == pytest.approx(highest)
    clipped = int((8 * audio_CT).abs().gt(1).sum())
    assert report.levels["vocals"]["clipped_samples"] == clipped > 0
    assert report.levels["drums"]["clipped_samples"] == 0


def test_float_keeps_what_exceeds_full_scale(tmp_path: Path, song: Path) -> None:
    report = separate(song, tmp_path / "out", SharesSeparator((8.0, 0, 0, 0)))
    assert report.gain == 1.0
    torch.testing.assert_close(read_stems(tmp_path / "out")["vocals"], 8 * read_audio(song))
    assert report.leakage_db["bass"] == dict.fromkeys(("vocals", "drums", "other"))


def test_the_residual_as_a_stem(tmp_path: Path, song: Path) -> None:
    report = separate(song, tmp_path / "out", residual="stem")
    found = read_stems(tmp_path / "out")
    assert set(found) == {*STEMS, "residual"}
    torch.testing.assert_close(found["residual"], 0.05 * read_audio(song), atol=1e-6, rtol=0)
    assert report.null_depth_db == pytest.approx(-26.0206, abs=1e-3)
    assert report.final_null_depth_db < -130
    test = NullTest()
    test.add(torch.stack(list(found.values())), read_audio(song))
    assert test.depth_db < -130


def test_the_residual_distributed(tmp_path: Path, song: Path) -> None:
    report = separate(song, tmp_path / "out", residual="distribute")
    found = read_stems(tmp_path / "out")
    assert set(found) == set(STEMS)
    torch.testing.assert_close(found["drums"], 0.2125 * read_audio(song))  # and a quarter of 5 %
    assert report.null_depth_db == pytest.approx(-26.0206, abs=1e-3)
    assert report.final_null_depth_db < -130
    test = NullTest()
    test.add(torch.stack(list(found.values())), read_audio(song))
    assert test.depth_db < -130


def test_distributing_never_adds_error_where_the_truth_adds_up() -> None:
    generator = torch.Generator().manual_seed(0)
    truth_SCT = torch.randn(4, 2, 1000, generator=generator)
    estimate_SCT = truth_SCT + torch.randn(4, 2, 1000, generator=generator)
    mixture_CT = truth_SCT.sum(dim=0)
    shared_SCT = distribute_residual(estimate_SCT, mixture_CT)
    before_CT = (estimate_SCT - truth_SCT).square().sum(dim=0)
    after_CT = (shared_SCT - truth_SCT).square().sum(dim=0)
    assert (after_CT <= before_CT + 1e-5).all()
    # What is taken away is the error's component along (1, 1, 1, 1): a quarter of its energy.
    assert (after_CT.sum() / before_CT.sum()).item() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("residual", ["none", "distribute"])
def test_two_stems_add_up_to_the_mixture(tmp_path: Path, song: Path, residual: str) -> None:
    report = separate(song, tmp_path / "out", two_stems="vocals", residual=residual)
    found = read_stems(tmp_path / "out")
    assert set(found) == {"vocals", "no_vocals"}
    torch.testing.assert_close(found["vocals"] + found["no_vocals"], read_audio(song))
    assert set(report.levels) == {*STEMS, "no_vocals"}


def test_some_stems_are_written_and_all_are_reported(tmp_path: Path, song: Path) -> None:
    loud = SharesSeparator((0.5, 0.5, 9.0, 0.5))
    report = separate(song, tmp_path / "out", loud, stems=("other", "vocals"), bit_depth="16")
    assert list(report.files) == ["other.wav", "vocals.wav"]
    assert set(report.levels) == set(report.leakage_db) == set(STEMS)
    assert report.gain == 1.0  # the drums are not written


def test_another_rate_and_the_pieces(tmp_path: Path, write_song: Callable[..., Path]) -> None:
    song = write_song(tmp_path / "song.flac", 1.0, sample_rate_hz=48_000)
    pieces: list[tuple[Tensor, Tensor]] = []
    separate_file(
        SharesSeparator(),
        song,
        tmp_path / "out",
        FileSettings(),
        on_piece=lambda *piece: pieces.append(piece),
    )
    mixture_CT, stems_SCT = (torch.cat(parts, dim=-1) for parts in zip(*pieces, strict=True))
    assert torch.equal(mixture_CT, read_audio(song))
    assert stems_SCT.shape == (len(STEMS), 2, SAMPLE_RATE_HZ)
    torch.testing.assert_close(read_stems(tmp_path / "out")["vocals"], 0.4 * read_audio(song))


def test_what_is_there_already_is_left(tmp_path: Path, song: Path) -> None:
    arguments = (SharesSeparator(), song, tmp_path / "out", FileSettings(batch_size=1))
    first, is_new = separate_file(*arguments)
    assert is_new
    before = (tmp_path / "out" / "bass.wav").stat()
    again, is_new = separate_file(*arguments[:3], FileSettings(batch_size=2))
    assert not is_new
    assert again.recipe() == first.recipe()
    assert (tmp_path / "out" / "bass.wav").stat().st_ino == before.st_ino
    _, is_new = separate_file(*arguments, overwrite=True)
    assert is_new
    (tmp_path / "out" / "bass.wav").unlink()
    _, is_new = separate_file(*arguments)
    assert is_new
    assert (tmp_path / "out" / "bass.wav").is_file()


def test_other_results_are_not_overwritten_silently(
    tmp_path: Path, song: Path, write_song: Callable[..., Path]
) -> None:
    folder = tmp_path / "out"
    separate(song, folder)
    other = write_song(tmp_path / "other.wav", 1.0, seed=5)
    with pytest.raises(DataError, match=r"those of another \(song.wav\)"):
        separate(other, folder)
    with pytest.raises(DataError, match="different: settings"):
        separate(song, folder, residual="stem")
    assert separate_file(SharesSeparator(), other, folder, FileSettings(), overwrite=True)[1]
    assert read_stems(folder)["bass"].shape[1] == SAMPLE_RATE_HZ
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        separate_file(SharesSeparator(), song, folder, FileSettings(), overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    with pytest.raises(DataError, match="found other files"):
        separate_file(SharesSeparator(), song, tmp_path / "home", FileSettings(), overwrite=True)
    assert not list(tmp_path.glob(".*"))


def test_what_another_command_writes_meanwhile_is_kept(
    tmp_path: Path, song: Path, write_song: Callable[..., Path]
) -> None:
    other = write_song(tmp_path / "other.wav", 1.0, seed=5)

    def write(*_: Tensor) -> None:
        if not (tmp_path / "out").exists():
            # As somebody who moves a folder there, and asks for no lock.
            separate_file(SharesSeparator(), other, tmp_path / "made", FileSettings())
            (tmp_path / "made").rename(tmp_path / "out")

    with pytest.raises(DataError, match=r"those of another \(other.wav\)"):
        separate_file(SharesSeparator(), song, tmp_path / "out", FileSettings(), on_piece=write)
    assert read_stems(tmp_path / "out")["bass"].shape[1] == SAMPLE_RATE_HZ
    assert not list(tmp_path.glob(".*"))


def test_a_link_to_a_folder_is_followed(tmp_path: Path, song: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    separate(song, tmp_path / "out")
    separate_file(SharesSeparator(), song, tmp_path / "out", FileSettings(), overwrite=True)
    assert (tmp_path / "out").is_symlink()
    assert set(read_stems(tmp_path / "real")) == set(STEMS)


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    audio_CT = torch.zeros(2, 4 * SAMPLE_RATE_HZ * 4)
    audio_CT[0, -1] = torch.nan
    sf.write(tmp_path / "song.wav", audio_CT.T.numpy(), SAMPLE_RATE_HZ, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        separate_file(
            SharesSeparator(), tmp_path / "song.wav", tmp_path / "out" / "song", FileSettings()
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_stems_that_are_not_finite_are_refused(tmp_path: Path, song: Path) -> None:
    broken = SharesSeparator((0.4, 0.3, math.nan, 0.05))
    with pytest.raises(DataError, match=r"song\.wav: expected finite stems, .* float32"):
        separate_file(broken, song, tmp_path / "out" / "song", FileSettings())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["file/song", "x" * 300])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, song: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"(file|xxx): expected to read .*: File (exists|name)"):
        separate_file(SharesSeparator(), song, tmp_path / name, FileSettings())


KILLED = """
import signal, sys, time
from pathlib import Path
from tests.separation.test_files import SharesSeparator
from mixprint.separation.files import FileSettings, separate_file

def wait(*_):
    print("writing", flush=True)
    time.sleep(60)

# A shell that starts the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings = FileSettings(bit_depth="16")
separate_file(SharesSeparator(), Path(sys.argv[1]), Path(sys.argv[2]), settings, on_piece=wait)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_half_results(
    tmp_path: Path, song: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(song), str(out / "song")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
    left = list(out.iterdir())
    if number == signal.SIGINT:
        assert left == []
        return
    # The lock is nobody's any more, and goes with the next run that takes it.
    assert sorted(path.name[:9] for path in left) == [".mixprint", ".writing-"]
    (half,) = (path for path in left if path.name.startswith(".writing-"))
    # One that is young, or that another process works on, is not touched.
    separate_file(SharesSeparator(), song, out / "another", FileSettings())
    os.utime(half, (0, 0))
    handle = os.open(half, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    separate_file(SharesSeparator(), song, out / "third", FileSettings())
    assert half.is_dir()
    os.close(handle)
    separate_file(SharesSeparator(), song, out / "song", FileSettings())
    assert sorted(path.name for path in out.iterdir()) == ["another", "song", "third"]


KILLED_BETWEEN = """
import os, sys
from pathlib import Path
from tests.separation.test_files import SharesSeparator
from mixprint.storage import folders
from mixprint.separation.files import FileSettings, separate_file

renamed = folders._renamed

def rename_and_die(source, target):
    if renamed(source, target) and target.name.startswith(folders.OLDER_PREFIX):
        os._exit(9)

folders._renamed = rename_and_die
song, folder = Path(sys.argv[1]), Path(sys.argv[2])
separate_file(SharesSeparator(), song, folder, FileSettings(), overwrite=True)
"""


def test_a_run_killed_while_it_overwrites_keeps_the_older_result(
    tmp_path: Path, song: Path
) -> None:
    folder = tmp_path / "out"
    before = separate(song, folder, container="flac", bit_depth="24")
    command = [sys.executable, "-c", KILLED_BETWEEN, str(song), str(folder)]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == 9
    assert not folder.exists()
    again, is_new = separate_file(
        SharesSeparator(), song, folder, FileSettings(container="flac", bit_depth="24")
    )
    assert not is_new
    assert again.recipe() == before.recipe()
    assert set(read_stems(folder, "flac")) == set(STEMS)
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"container": "mp3"}, "container.*wav, flac.*'mp3'"),
        ({"bit_depth": "32"}, "bit_depth"),
        ({"container": "flac", "bit_depth": "float32"}, "16 or 24 with flac"),
        ({"stems": ("vocals", "piano")}, "'piano'"),
        ({"stems": ("vocals", "vocals")}, "different names"),
        ({"stems": ()}, "different names"),
        ({"two_stems": "voice"}, "'voice'"),
        ({"stems": ("bass",), "two_stems": "bass"}, "either stems or two_stems"),
        ({"residual": "stem", "two_stems": "bass"}, "no_bass"),
        ({"residual": "half"}, "residual"),
        ({"window_s": 0.0}, "window_s"),
        ({"overlap": 1.0}, "overlap"),
        ({"batch_size": -1}, "batch_size"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FileSettings(**settings)


def test_a_long_song_needs_no_more_memory(tmp_path: Path) -> None:
    """Six minutes of stereo are 127 MB as float32, and four times that as stems."""
    length_s = 360
    block = torch.zeros(SAMPLE_RATE_HZ, 2).numpy()
    with sf.SoundFile(tmp_path / "song.flac", "w", SAMPLE_RATE_HZ, 2) as file:
        for _ in range(length_s):
            file.write(block)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "song.flac"), str(tmp_path / "out")]
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert int(result.stdout) < 150


MEASURED = """
import resource, sys
from pathlib import Path
from tests.separation.test_files import SharesSeparator
from mixprint.separation.files import FileSettings, separate_file

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak_mb()
settings = FileSettings(container="flac", bit_depth="16", stems=("vocals",))
separate_file(SharesSeparator(), Path(sys.argv[1]), Path(sys.argv[2]), settings)
print(peak_mb() - before)
"""


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_stems_are_made_again_where_a_file_is_not_as_it_was_written(
    tmp_path: Path, song: Path, container: str, damage: Callable[[Path], object]
) -> None:
    settings = FileSettings(container=container, bit_depth="16")
    separator: Any = SharesSeparator()
    separate_file(separator, song, tmp_path / "out", settings)
    path = tmp_path / "out" / f"bass.{container}"
    before = file_sha256(path)
    damage(path)
    assert separate_file(separator, song, tmp_path / "out", settings)[1]
    assert file_sha256(path) == before
    assert not separate_file(separator, song, tmp_path / "out", settings)[1]


def test_of_two_separations_at_once_one_folder_has_those_of_the_first(
    tmp_path: Path, song: Path
) -> None:
    separator: Any = SharesSeparator()
    refused: list[str] = []

    def another(*_: Tensor) -> None:
        with pytest.raises(DataError) as caught:
            separate_file(separator, song, tmp_path / "out", FileSettings(bit_depth="16"))
        refused.append(str(caught.value))

    separate_file(separator, song, tmp_path / "out", FileSettings(), on_piece=another)
    assert all("found a separation of song.wav into out (process" in text for text in refused)
    assert refused
    assert read_json(tmp_path / "out" / REPORT_NAME)["settings"]["bit_depth"] == "float32"
