import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from mixprint.cli import app
from mixprint.errors import ConfigError, DataError
from mixprint.listening.analyse import analyse, condition_scores, results_text, t_interval
from mixprint.listening.generate import ANCHOR, REFERENCE, UNCHANGED
from mixprint.storage.atomic import read_json, write_json

SCORES = {REFERENCE: 100, ANCHOR: 20, UNCHANGED: 40, "optimise": 80}


def results(listener: str, *trials: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": "mixprint listening results",
        "fingerprint": "f" * 64,
        "listener": listener,
        "trials": [
            {"trial": f"t{number:02d}", "scores": scores}
            for number, scores in enumerate(trials, start=1)
        ],
    } | more


def write(folder: Path, *all_results: dict[str, Any]) -> Path:
    for number, values in enumerate(all_results):
        write_json(folder / f"r{number}.json", values)
    return folder


def test_means_and_intervals(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        results("ann", SCORES, SCORES | {"optimise": 60}),
        results("bob", SCORES | {"optimise": 90}, SCORES | {"optimise": 90, UNCHANGED: 20}),
    )
    found = analyse([folder], folder / "results.json")
    assert list(found["conditions"]) == [REFERENCE, "optimise", UNCHANGED, ANCHOR]
    # Listeners' means are 70 and 90: mean 80, standard error 10.
    values = found["conditions"]["optimise"]
    half = stats.t.ppf(0.975, 1) * 10
    assert values["mean"] == 80
    assert (values["low"], values["high"]) == pytest.approx((80 - half, 80 + half))
    assert values["median"] == 85
    # Over the unchanged input: (40, 20) and (50, 70), so 30 and 60.
    assert values["over_input"] == 45
    assert found["trials"]["t02"]["optimise"]["mean"] == 75
    assert found["conditions"][REFERENCE]["low"] == found["conditions"][REFERENCE]["high"] == 100
    assert (found["num_listeners"], found["num_trials"], found["refused"]) == (2, 2, [])
    # A second analysis does not take its own results for a listener's.
    assert analyse([folder], folder / "results.json") == found
    assert read_json(folder / "results.json") == found
    assert "optimise" in (folder / "results.html").read_text()
    assert "+45.0" in results_text(found)


def test_one_listener_has_no_interval(tmp_path: Path) -> None:
    found = analyse([write(tmp_path, results("ann", SCORES))], tmp_path / "out.json")
    assert found["conditions"]["optimise"]["low"] is None
    assert "one listener" in results_text(found)


def test_the_interval_holds_what_it_says() -> None:
    mean, low, high = t_interval([1.0, 2.0, 3.0])
    # Textbook: t(0.975, 2) = 4.3027, standard error 1 / sqrt(3).
    assert mean == 2
    half = 4.3027 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-4)


def test_a_condition_that_only_some_trials_have() -> None:
    scores = [{"t1": {"a": 10.0, "b": 50.0}, "t2": {"a": 30.0}}]
    found = condition_scores(scores)
    assert (found["a"]["mean"], found["b"]["mean"]) == (20, 50)
    assert found["a"]["over_input"] is None


def test_who_misses_the_hidden_reference_is_left_out(tmp_path: Path) -> None:
    good, miss = SCORES, SCORES | {REFERENCE: 89, "optimise": 0}
    folder = write(
        tmp_path,
        # One of 7 is 14 % and passes; two of 7 do not.
        results("passes", *[good] * 6, SCORES | {REFERENCE: 89}),
        results("fails", *[good] * 5, miss, miss),
    )
    found = analyse([folder], tmp_path / "out" / "results.json")
    assert found["listeners"] == ["passes"]
    assert found["screened_out"] == [{"listener": "fails", "failed_fraction": pytest.approx(2 / 7)}]
    assert found["conditions"]["optimise"]["mean"] == 80
    (tmp_path / "r0.json").unlink()
    with pytest.raises(DataError, match="none of 1"):
        analyse([folder], tmp_path / "out" / "results.json")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"kind": "other"}, "something else"),
        ([1, 2], "something else"),
        (results("", SCORES), "listener: expected a length of 1"),
        (results("x"), "trials: expected a length of 1"),
        (results("x", SCORES | {ANCHOR: 101}), "expected 0 to 100, found 101"),
        (results("x", SCORES | {ANCHOR: True}), "anchor 3.5 kHz: expected float, found True"),
        (results("x", SCORES | {ANCHOR: None}), "anchor 3.5 kHz: expected float, found None"),
        (results("x", {ANCHOR: 3}), "found others in ['t01']"),
        (results("x", SCORES, SCORES), "found others in ['t02']"),
        (results("x", SCORES, fingerprint="e" * 64), "test ffffffff, found eeeeeeee"),
        (results("ann", SCORES), "one file per listener"),
        (results("x", SCORES) | {"trials": [{"trial": 1}]}, "trials[0]: missing keys"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, values: Any, reason: str) -> None:
    write(tmp_path, results("ann", SCORES), values)
    found = analyse([tmp_path], tmp_path / "out.json")
    assert found["listeners"] == ["ann"]
    (refused,) = found["refused"]
    assert refused["file"] == str(tmp_path / "r1.json")
    assert reason in refused["reason"]
    assert "r1.json" in refused["reason"]


def test_an_analysis_is_replaced_only_when_asked_and_other_files_never(tmp_path: Path) -> None:
    folder = write(tmp_path / "ratings", results("ann", SCORES))
    out = tmp_path / "results.json"
    analyse([folder], out)
    analyse([folder], out)
    write(folder, results("ann", SCORES), results("bob", SCORES))
    before = out.read_bytes()
    with pytest.raises(DataError, match="--overwrite"):
        analyse([folder], out)
    assert out.read_bytes() == before
    assert analyse([folder], out, overwrite=True)["num_listeners"] == 2
    for name in ("results.json", "results.html"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        own = tmp_path / "mine" / name
        own.write_text("mine")
        with pytest.raises(DataError, match=f"{name}: expected a new file"):
            analyse([folder], tmp_path / "mine" / "results.json", overwrite=True)
        assert own.read_text() == "mine"
        own.unlink()
    with pytest.raises(DataError, match=r"r0\.json: expected a new file"):
        analyse([folder / "r0.json", folder / "r1.json"], folder / "r0.json", overwrite=True)
    with pytest.raises(ConfigError, match="page beside it"):
        analyse([folder], tmp_path / "results.html")


def test_the_test_beside_the_files_says_what_belongs(tmp_path: Path) -> None:
    test = {
        "fingerprint": "f" * 64,
        "trials": [{"trial": "t01", "conditions": {name: {} for name in SCORES}}],
    }
    write_json(tmp_path / "test.json", test)
    # The first file is of another test, which would otherwise set the measure.
    write(tmp_path, results("old", SCORES, fingerprint="e" * 64), results("ann", SCORES))
    found = analyse([tmp_path], tmp_path / "out.json")
    assert found["listeners"] == ["ann"]
    assert "r0.json" in found["refused"][0]["file"]


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path, results("ann", SCORES), results("bob", SCORES))
    (tmp_path / "broken.json").write_text("{")
    out = tmp_path / "out" / "results.json"
    done = CliRunner().invoke(app, ["listening-results", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 1
    assert "broken.json" in done.output
    assert "80.0 to 80.0" in done.output
    assert json.loads(out.read_text())["num_listeners"] == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    done = CliRunner().invoke(app, ["listening-results", str(empty)])
    assert done.exit_code == 1
    assert "expected result files" in done.output
