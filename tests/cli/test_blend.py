from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixprint.audio.files import read_audio
from mixprint.cli import app
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import read_json

runner = CliRunner()


def blend(songs: tuple[Path, Path], out: Path, *options: str) -> dict:
    result = runner.invoke(app, ["blend", *map(str, songs), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.output
    return read_json(out.with_suffix(".json"))


@pytest.mark.parametrize("masking", ["stems", "energy"])
def test_two_songs_become_one(tmp_path: Path, songs: tuple[Path, Path], masking: str) -> None:
    out = tmp_path / "mix.wav"
    figures = blend(songs, out, "--masking", masking)
    assert read_audio(out).shape == read_audio(songs[0]).shape
    assert figures["masking"] == masking
    assert out.with_suffix(".html").is_file()


def test_parts_and_balance_change_the_mix(tmp_path: Path, songs: tuple[Path, Path]) -> None:
    mixes = []
    for number, options in enumerate(
        (
            [],
            ["--start", "1"],
            ["--offset", "1"],
            ["--balance", "6"],
        )
    ):
        out = tmp_path / f"{number}.wav"
        blend(songs, out, "--masking", "energy", "--duration", "2", *options)
        mixes.append(read_audio(out))
    assert {mix_CT.shape[-1] for mix_CT in mixes} == {2 * SAMPLE_RATE_HZ}
    assert all(not mix_CT.equal(mixes[0]) for mix_CT in mixes[1:])


def test_what_is_wrong_is_told(
    tmp_path: Path, songs: tuple[Path, Path], unusable: dict[str, Path]
) -> None:
    out = tmp_path / "mix.wav"
    for song, options, said in (
        (songs[1], ["--offset", "60"], "b.flac"),
        (unusable["page"], [], "page.mp3"),
        (unusable["gone"], [], "gone.wav"),
    ):
        result = runner.invoke(
            app, ["blend", str(songs[0]), str(song), "--out", str(out), *options]
        )
        assert result.exit_code == 1, result.output
        assert said in result.output
        assert not out.exists()
    result = runner.invoke(app, ["blend", *map(str, songs), "--out", str(songs[0])])
    assert result.exit_code == 1
    assert "expected another file than the input" in result.output
