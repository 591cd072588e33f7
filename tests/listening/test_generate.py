import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs, true_peak_dbtp
from mixprint.errors import ConfigError, DataError
from mixprint.listening.generate import (
    ANCHOR,
    REFERENCE,
    UNCHANGED,
    find_trials,
    low_pass,
    make_test,
)
from mixprint.storage.atomic import read_json
from tests.listening.conftest import RATE_HZ, WriteResult, tone


def heard(out_dir: Path, stimulus: str) -> Tensor:
    text = (out_dir / "audio" / f"{stimulus}.js").read_text()
    match = re.fullmatch(r'stimulus\("(\w+)", "([\w+/=]+)"\);\n', text)
    assert match
    assert match[1] == stimulus
    audio_TC, rate_hz = sf.read(io.BytesIO(base64.b64decode(match[2])), dtype="float32")
    assert rate_hz == RATE_HZ
    return torch.from_numpy(audio_TC.T)


def level_db(audio_CT: Tensor, low_hz: float, high_hz: float) -> float:
    """Energy between two frequencies."""
    power_F = torch.fft.rfft(audio_CT[0].double()).abs().square()
    bins_hz_F = torch.fft.rfftfreq(audio_CT.shape[-1], 1 / RATE_HZ)
    chosen = (bins_hz_F >= low_hz) & (bins_hz_F < high_hz)
    return 10 * float(torch.log10(power_F[chosen].sum() + 1e-20))


def test_methods_of_a_pair_are_one_trial(tmp_path: Path, write_result: WriteResult) -> None:
    write_result(tmp_path / "batch" / "console" / "x")
    write_result(tmp_path / "batch" / "tcn" / "x", method="tcn")
    write_result(tmp_path / "batch" / "tcn" / "y", method="tcn", pair=2)
    test = make_test(tmp_path / "batch", tmp_path / "out", max_trials=8, seed=3)
    assert read_json(tmp_path / "out" / "test.json") == test
    first, second = test["trials"]
    common = {REFERENCE, ANCHOR, UNCHANGED}
    assert set(first["conditions"]) == common | {"optimise, features", "tcn, features"}
    assert set(second["conditions"]) == common | {"tcn, features"}
    assert not first["has_truth"]

    sounds = {
        name: heard(tmp_path / "out", value["stimulus"])
        for name, value in first["conditions"].items()
    }
    # Without the truth the reference is the target, which keeps its length.
    assert sounds[REFERENCE].shape[-1] == round(0.8 * RATE_HZ)
    for name, audio_CT in sounds.items():
        assert loudness_lufs(audio_CT, RATE_HZ) == pytest.approx(first["loudness_lufs"], abs=0.1)
        assert true_peak_dbtp(audio_CT) <= -0.99, name
    # Nothing on the disk tells which is which.
    names = [path.name for path in (tmp_path / "out" / "audio").iterdir()]
    assert len(names) == 9
    assert not any("tcn" in name or "reference" in name for name in names)


def test_the_truth_is_the_reference_and_makes_the_anchor(
    tmp_path: Path, write_result: WriteResult
) -> None:
    write_result(tmp_path / "batch" / "x", truth=True)
    (trial,) = make_test(tmp_path / "batch", tmp_path / "out", max_trials=1, seed=1)["trials"]
    assert trial["has_truth"]
    reference_CT, anchor_CT = (
        heard(tmp_path / "out", trial["conditions"][name]["stimulus"])
        for name in (REFERENCE, ANCHOR)
    )
    assert level_db(reference_CT, 700, 800) - level_db(reference_CT, 7900, 8100) < 7
    assert level_db(anchor_CT, 700, 800) - level_db(anchor_CT, 7900, 8100) > 50


@pytest.mark.parametrize(("frequency_hz", "expected_db"), [(3000, 0.0), (3400, 0.0), (3750, -6.0)])
def test_low_pass(frequency_hz: float, expected_db: float) -> None:
    audio_CT = tone(frequency_hz)
    filtered_CT = low_pass(audio_CT, RATE_HZ)
    # Away from the ends, where a tone that begins suddenly is none.
    inner = slice(5000, -5000)
    ratio = filtered_CT[:, inner].square().mean() / audio_CT[:, inner].square().mean()
    assert 10 * torch.log10(ratio).item() == pytest.approx(expected_db, abs=0.1)


@pytest.mark.parametrize(("frequency_hz", "at_most_db"), [(4000, -25), (4500, -50), (9000, -60)])
def test_the_anchor_attenuates_as_the_standard_asks(frequency_hz: float, at_most_db: float) -> None:
    audio_CT = tone(frequency_hz)
    inner = slice(5000, -5000)
    power = low_pass(audio_CT, RATE_HZ)[:, inner].square().mean()
    assert 10 * torch.log10(power / audio_CT.square().mean()).item() < at_most_db


def test_the_same_method_twice_is_told_apart_by_the_folder(
    tmp_path: Path, write_result: WriteResult
) -> None:
    write_result(tmp_path / "lr-1" / "x")
    write_result(tmp_path / "lr-2" / "x")
    (trial,) = find_trials(tmp_path)
    assert set(trial.outputs) == {"optimise, features (lr-1)", "optimise, features (lr-2)"}
    write_result(tmp_path / "lr-2" / "again")
    with pytest.raises(DataError, match="another method"):
        find_trials(tmp_path)


def test_the_choice_of_trials_is_seeded(tmp_path: Path, write_result: WriteResult) -> None:
    for pair in range(6):
        write_result(tmp_path / "batch" / f"p{pair}", pair=pair)

    def titles(seed: int) -> list[str]:
        test = make_test(tmp_path / "batch", tmp_path / "out", max_trials=2, seed=seed)
        assert len(list((tmp_path / "out" / "audio").iterdir())) == 8
        return [trial["title"] for trial in test["trials"]]

    assert titles(1) == titles(1)
    assert len({tuple(titles(seed)) for seed in range(5)}) > 1


def test_a_test_is_replaced_only_when_asked_and_other_files_never(
    tmp_path: Path, write_result: WriteResult
) -> None:
    out = tmp_path / "out"
    for pair in range(2):
        write_result(tmp_path / "batch" / f"p{pair}", pair=pair)

    def make(max_trials: int, *, overwrite: bool = False) -> dict[str, Any]:
        return make_test(
            tmp_path / "batch", out, max_trials=max_trials, seed=1, overwrite=overwrite
        )

    first = make(2)
    (out / "audio" / "mine.js").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert make(2) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(DataError, match=r"a listening test of another call.*--overwrite"):
        make(1)
    second = make(1, overwrite=True)
    kept = {c["stimulus"] for c in second["trials"][0]["conditions"].values()}
    assert {path.stem for path in (out / "audio").iterdir()} == kept | {"mine"}
    (out / "test.json").write_text("{}")
    with pytest.raises(DataError, match=r"other files there: audio/"):
        make(1, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="found a file"):
        make_test(tmp_path / "batch", tmp_path / "file", max_trials=1, seed=1)


def test_refusals(tmp_path: Path, write_result: WriteResult) -> None:
    with pytest.raises(DataError, match="found none"):
        make_test(tmp_path, tmp_path / "out", max_trials=1, seed=1)
    with pytest.raises(ConfigError, match="max_trials"):
        make_test(tmp_path, tmp_path / "out", max_trials=0, seed=1)
    for number in range(10):
        write_result(tmp_path / "batch" / f"{number}", method=f"m{number}")
    with pytest.raises(DataError, match="at most 12"):
        make_test(tmp_path / "batch", tmp_path / "out", max_trials=1, seed=1)
