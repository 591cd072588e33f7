"""The command `separate`."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import Tensor
from typer.testing import CliRunner

from mixprint.audio.files import write_audio
from mixprint.cli import app
from mixprint.separation import source
from mixprint.separation.source import SeparatorSource
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from tests.cli.stand_ins import QuarterSeparator

runner = CliRunner()


def test_separate_writes_a_folder_per_song(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    arguments = ["separate", *map(str, songs), "--out", str(tmp_path / "stems")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = {str(p.relative_to(tmp_path / "stems")) for p in (tmp_path / "stems").rglob("*.*")}
    names = [*(f"{stem}.wav" for stem in STEMS), "separation.json"]
    assert found == {f"{song}/{name}" for song in ("a song", "b") for name in names}
    assert result.stdout.splitlines() == [str(tmp_path / "stems" / s) for s in ("a song", "b")]
    assert "2 separated, 0 there already, 0 failed" in result.stderr
    again = runner.invoke(app, arguments)
    assert again.exit_code == 0
    assert again.stdout.count("(was there already)") == 2
    assert "0 separated, 2 there already, 0 failed" in again.stderr


def test_separate_goes_on_after_a_bad_file(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    (tmp_path / "bad.wav").write_text("no audio")
    arguments = [str(songs[0]), str(tmp_path / "bad.wav"), str(tmp_path / "no.mp3"), str(songs[1])]
    result = runner.invoke(app, ["separate", *arguments, "--out", str(tmp_path / "stems")])
    assert result.exit_code == 1
    assert "bad.wav: expected audio" in result.stderr
    assert "no.mp3: expected audio" in result.stderr
    assert "2 separated, 0 there already, 2 failed" in result.stderr
    assert sorted(path.name for path in (tmp_path / "stems").iterdir()) == ["a song", "b"]


def test_an_input_of_separate_is_never_replaced(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    out = ["--out", str(tmp_path / "stems")]
    runner.invoke(app, ["separate", str(songs[1]), *out])
    stem = tmp_path / "stems" / "b" / "vocals.wav"
    again = tmp_path / "stems" / "b" / "b.wav"
    again.symlink_to(stem)
    before = stem.read_bytes()
    result = runner.invoke(app, ["separate", str(songs[1]), *out, "--overwrite"])
    assert "found also ['b.wav']" in result.stderr
    again.unlink()
    link = tmp_path / "b.wav"
    link.symlink_to(stem)
    result = runner.invoke(app, ["separate", str(link), *out, "--overwrite"])
    assert result.exit_code == 1
    assert "of an input" in result.stderr
    assert stem.read_bytes() == before


def test_separate_says_which_songs_it_has_resampled(
    tmp_path: Path, songs: tuple[Path, Path], make_audio: Callable[..., Tensor]
) -> None:
    write_audio(tmp_path / "c.wav", make_audio(2.0), 48_000)
    arguments = ["separate", str(songs[1]), str(tmp_path / "c.wav"), "--out", str(tmp_path / "s")]
    result = runner.invoke(app, arguments)
    note = "c.wav: resampled from 48000 Hz to 44100 Hz"
    assert [line for line in result.stderr.splitlines() if "Hz" in line] == [f"note: {note}"]
    assert read_json(tmp_path / "s" / "c" / "separation.json")["notes"] == [note]
    assert read_json(tmp_path / "s" / "b" / "separation.json")["notes"] == []


def test_separate_needs_a_folder(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    result = runner.invoke(app, ["separate", str(songs[0]), "--out", str(songs[1])])
    assert result.exit_code == 1
    assert "expected a folder to write to, found a file" in result.stderr


@pytest.mark.parametrize("separator", ["_", "-"])
def test_options_of_separate(tmp_path: Path, songs: tuple[Path, Path], separator: str) -> None:
    options = {
        "out": tmp_path / "stems",
        "checkpoint": "default",
        "format": "flac",
        "bit_depth": "16",
        "two_stems": "vocals",
        "residual": "distribute",
        "window": 2.0,
        "overlap": 0.5,
        "batch_size": 2,
        "precision": "bfloat16",
        "device": "cpu",
        "jobs": 1,
    }
    arguments = [
        part for k, v in options.items() for part in (f"--{k.replace('_', separator)}", str(v))
    ]
    result = runner.invoke(app, ["separate", str(songs[1]), *arguments])
    assert result.exit_code == 0, result.output
    report = read_json(tmp_path / "stems" / "b" / "separation.json")
    assert report["files"] == ["vocals.flac", "no_vocals.flac"]
    assert report["settings"] == {
        "container": "flac",
        "bit_depth": "16",
        "stems": list(STEMS),
        "two_stems": "vocals",
        "residual": "distribute",
        "window_s": 2.0,
        "overlap": 0.5,
        "precision": "bfloat16",
    }


@pytest.mark.parametrize("options", [[], ["--compile"]])
def test_separate_compiles_where_asked(
    tmp_path: Path,
    songs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    separator = QuarterSeparator()
    monkeypatch.setattr(source, "load_separator", lambda *_: separator)
    arguments = ["separate", str(songs[0]), "--out", str(tmp_path / "stems"), *options]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert separator.compiled is bool(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "flac", "--bit-depth", "float32"], "16 or 24 with flac"),
        (["--stems", "vocals,piano"], "'piano'"),
        (["--format", "mp3"], "--format"),
        (["--jobs", "0"], "--jobs"),
        (["--overlap", "1"], "overlap"),
    ],
)
def test_wrong_options_of_separate_exit_with_2(
    tmp_path: Path, songs: tuple[Path, Path], options: list[str], message: str
) -> None:
    result = runner.invoke(
        app, ["separate", str(songs[0]), "--out", str(tmp_path / "stems"), *options]
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "stems").exists()


def test_separate_does_the_others_where_one_song_breaks_off_or_may_not_be_read(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path]
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    good = Path(os.fsdecode(os.fsencode(folder) + b"/good\xff.wav"))
    good.write_bytes(songs[0].read_bytes())
    flac = songs[1].read_bytes()
    (folder / "damaged.flac").write_bytes(flac[: len(flac) // 2] + bytes(5_000))
    (folder / "to nothing.wav").symlink_to("gone.wav")
    out = tmp_path / "stems"
    arguments = ["separate", str(folder), *map(str, unusable.values()), "--out", str(out)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    # The short one can be separated, if not measured.
    assert sorted(result.stdout.splitlines()) == [str(out / r"good\xff"), str(out / "short")]
    failed = [folder / "damaged.flac", folder / "to nothing.wav", *unusable.values()]
    failed.remove(unusable["short"])
    for path in failed:
        assert result.stderr.count(f"failed: {path}") == 1, path
    assert f"2 separated, 0 there already, {len(failed)} failed" in result.stderr
    assert len(list(out.iterdir())) == 2


class DeadlySeparator(QuarterSeparator):
    """Ends its process at a song that is called so."""

    def stream_file(self, path: Path, **_: object) -> Iterator[tuple[Tensor, Tensor]]:
        if path.stem == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stream_file(path)


class DeadlySource(SeparatorSource):
    def load(self) -> DeadlySeparator:  # type: ignore[override]
        return DeadlySeparator()


def test_a_killed_process_fails_one_song(
    tmp_path: Path, write_song: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("deadly", "one", "two", "three"):
        write_song(tmp_path / "songs" / f"{name}.wav", 0.5)
    monkeypatch.setattr(source, "SeparatorSource", DeadlySource)
    arguments = ["separate", str(tmp_path / "songs"), "--out", str(tmp_path / "out")]
    result = runner.invoke(app, [*arguments, "--device", "cpu", "--jobs", "2"])
    assert result.exit_code == 1
    [failed] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert re.search(r"deadly\.wav: its process was ended by signal 9.*fewer jobs", failed)
    assert "3 separated, 0 there already, 1 failed" in result.stderr
    written = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert written == {"one", "two", "three"}
