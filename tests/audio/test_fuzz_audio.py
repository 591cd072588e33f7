import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf

from tests.audio.fuzz_audio import (
    DURATION_S,
    FORMATS,
    BrokenRuleError,
    Mutation,
    check,
    mutate,
    source,
)

SEED = 20_261
COUNT = 100


def test_mutated_files_of_each_format_are_read_whole_or_refused_by_name(tmp_path: Path) -> None:
    """In a process of its own, which ends when a file takes too long or too much memory."""
    command = [sys.executable, "-m", "tests.audio.fuzz_audio", "--seed", str(SEED)]
    command += ["--count", str(COUNT), "--minutes", "5", "--keep", str(tmp_path)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3_000:]}\nkept: {kept}"
    assert f"{COUNT * len(FORMATS)} files, 0 broke a rule" in run.stdout


def test_a_seed_makes_the_same_files(tmp_path: Path) -> None:
    for name in ("wav", "vorbis", "mp3"):
        assert source(FORMATS[name]) == source(FORMATS[name])
    content = source(FORMATS["wav"])
    made = [mutate(content, 128, random.Random("a")) for _ in range(2)]
    assert made[0] == made[1]


def test_each_rule_can_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    content = source(FORMATS["wav"])
    path.write_bytes(content)
    assert check(path, Mutation(content, len(content), ""), FORMATS["wav"]) == "read"
    # A reader that believes what the file holds, as libsndfile does, takes half of it for all.
    path.write_bytes(content[: len(content) // 2])
    cut = Mutation(path.read_bytes(), len(content) // 2, "")
    assert check(path, cut, FORMATS["wav"]) == "truncated"
    monkeypatch.setattr("mixprint.audio.files.read_container", lambda file: None)
    with pytest.raises(BrokenRuleError, match=r"0\.250 of 0\.5 s were read, without a word"):
        check(path, cut, FORMATS["wav"])
    monkeypatch.setattr("tests.audio.fuzz_audio.read_audio", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(path, cut, FORMATS["wav"])


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_pages_keep_a_right_checksum(name: str) -> None:
    """libogg drops pages with a wrong one."""
    content = source(FORMATS[name])
    audio_TN, rate_hz = sf.read(io.BytesIO(content))
    assert len(audio_TN) == DURATION_S * rate_hz
