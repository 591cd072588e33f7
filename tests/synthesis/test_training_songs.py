"""Tests of `mixprint.synthesis.training_songs`; all but one need the sound bank and speakers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mixprint.errors import ConfigError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis import training_songs
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.soundbank import BANK_PATH, PLAYER
from mixprint.synthesis.training_songs import SongSource

needs_programs = pytest.mark.skipif(
    not BANK_PATH.is_file() or not all(map(shutil.which, (PLAYER, "flite", "espeak-ng"))),
    reason="needs the Debian packages fluidsynth, fluid-soundfont-gm, flite and espeak-ng",
)


@pytest.mark.parametrize("role", [*training_songs._SOUNDS, "bass"])
def test_the_camps_share_no_instrument(role: str) -> None:
    sounds = training_songs._BASSES if role == "bass" else training_songs._SOUNDS[role]
    train, held_out = (
        {
            SongSource(seed=1, held_out=camp)._deal_sound(Rng(camp, draw), sounds)
            for draw in range(300)
        }
        for camp in (False, True)
    )
    assert not {program for _, program in train} & {program for _, program in held_out}
    assert train | held_out == set(sounds)


@needs_programs
@pytest.mark.parametrize("held_out", [False, True])
def test_stems_sound_and_add_up(tmp_path: Path, held_out: bool) -> None:
    folder = SongSource(seed=3, duration_s=6.0, held_out=held_out).write(0, tmp_path)

    audio = {n: sf.read(folder / f"{n}.wav", dtype="int16")[0] for n in ("mixture", *STEMS)}
    assert all(samples.shape == (6 * SAMPLE_RATE_HZ, 2) for samples in audio.values())
    assert np.array_equal(audio["mixture"], sum(audio[stem] for stem in STEMS))
    assert all(np.abs(audio[stem]).max() > 300 for stem in STEMS)
    assert np.abs(audio["mixture"].astype(int)).max() < 32_767
    assert json.loads((folder / "settings.json").read_text())["song"] == folder.name


def test_songs_that_are_not_sampled_need_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    folder = SongSource(seed=3, duration_s=4.0, sampled=False).write(0, tmp_path)
    assert all(np.abs(sf.read(folder / f"{stem}.wav")[0]).max() > 0.01 for stem in STEMS)


def test_says_what_is_missing_and_which_packages_bring_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"did not find fluidsynth, flite.*fluid-soundfont-gm"):
        training_songs.check_installed()


@needs_programs
def test_a_song_depends_on_its_number_alone(tmp_path: Path) -> None:
    source = SongSource(seed=3, duration_s=4.0)
    (tmp_path / "both").mkdir()
    (tmp_path / "alone").mkdir()
    for number in (0, 1):
        source.write(number, tmp_path / "both")
    alone = source.write(1, tmp_path / "alone")
    for file in alone.iterdir():
        assert file.read_bytes() == (tmp_path / "both" / alone.name / file.name).read_bytes()
