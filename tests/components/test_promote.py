import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from components.mlflow.client import connect
from components.mlflow.registry import (
    CANDIDATE,
    DATA_TAG,
    DECISION_TAG,
    ENCODER_TAG,
    METRIC_TAG,
    PREVIOUS_TAG,
    REASONS_TAG,
    Decision,
    Registry,
    fetch_model,
    read_model_json,
    run_of_encoder,
)
from components.promote.main import (
    Champion,
    Evaluated,
    PromoteConfig,
    gate_metric,
    judge,
    run,
)
from components.step import Manifest
from mixprint.config import load_params
from mixprint.encoder.checkpoint import load_checkpoint, save_checkpoint
from mixprint.errors import ConfigError, DataError
from mixprint.evaluation.card import _summary
from mixprint.evaluation.plots import plot_confusion
from mixprint.storage.atomic import read_json, write_json
from tests.evaluation.test_baselines import make_encoder
from tests.training.trials import KilledError

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
GATE = replace(
    PromoteConfig.from_values(load_params(PARAMS)["promote"]), min_metric=0.5, max_regression=0.1
)
NUM_SONGS, MIXES = 20, 4


def evaluated(
    found: list[float], *, data: str = "data", width: float = 0.1, name: str = "style_recall_at_1"
) -> Evaluated:
    """Make an evaluation with the given score of each track; four tracks are a song."""
    value = float(np.mean(found))
    task, _, measure = name.partition("_")
    ids = [f"track{i}" for i in range(len(found))]
    return Evaluated(
        metrics={
            "schema_version": 3,
            "evaluated_fingerprint": data,
            "data_fingerprint": f"{data} and songs that were not evaluated",
            "split_used": "test",
            "split_reason": "held out from the training",
            name: value,
            f"{name}_low": value - width,
            f"{name}_high": value + width,
        },
        details={
            "scores": {task: {measure: dict(zip(ids, found, strict=True))}},
            "songs": {track: f"song{i // MIXES}" for i, track in enumerate(ids)},
        },
    )


def shares(value: float) -> list[float]:
    """Return scores of 0 and 1 with this mean, in every song alike."""
    return [float(i % MIXES < value * MIXES) for i in range(NUM_SONGS * MIXES)]


@pytest.mark.parametrize(
    ("value", "width", "promoted"),
    [
        (0.75, 0.25, True),  # its lower end meets the minimum exactly
        (0.75, 0.3, False),  # good, but not surely good enough
        (0.25, 0.1, False),
    ],
)
def test_the_lower_end_must_reach_the_minimum(value: float, width: float, promoted: bool) -> None:
    decided, reasons = judge(evaluated(shares(value), width=width), None, GATE)
    assert decided is promoted
    assert f"{value:.4f}" in reasons[0]
    assert "no other champion" in reasons[1]


def test_a_loss_in_every_song_is_a_loss() -> None:
    best = Champion(version="3", evaluated=evaluated(shares(1.0)))
    worse = evaluated(shares(0.75))
    decided, reasons = judge(worse, best, GATE)
    assert not decided
    # In each song one of four tracks fewer: the interval of the difference has no width.
    assert "worse than that of champion 3: difference -0.2500 [-0.2500, -0.2500]" in reasons[1]
    assert judge(worse, best, replace(GATE, max_regression=0.25))[0]
    assert judge(evaluated(shares(1.0)), Champion(version="3", evaluated=worse), GATE)[0]


def test_a_loss_that_chance_explains_is_none() -> None:
    scores = shares(1.0)
    scores[:MIXES] = [0.0] * MIXES  # one song of twenty is lost
    best = Champion(version="3", evaluated=evaluated(shares(1.0)))
    strict = replace(GATE, max_regression=0.0)
    decided, reasons = judge(evaluated(scores), best, strict)
    assert decided
    assert "not significantly worse" in reasons[1]
    assert "-0.0500" in reasons[1]
    # Every second song is lost: no chance.
    scores = [0.0 if i // MIXES % 2 else 1.0 for i in range(NUM_SONGS * MIXES)]
    assert not judge(evaluated(scores, width=0.0), best, strict)[0]


def test_champion_measured_on_other_data_is_no_yardstick() -> None:
    candidate = evaluated(shares(0.75))
    best = Champion(version="3", evaluated=evaluated(shares(1.0), data="older"))
    decided, reasons = judge(candidate, best, GATE)
    assert decided
    assert "other data" in reasons[1]
    decided, reasons = judge(candidate, Champion(version="3", evaluated=None), GATE)
    assert decided
    assert "no model card" in reasons[1]


def test_figures_of_songs_of_the_training_promote_nobody() -> None:
    candidate = evaluated(shares(1.0))
    flattered = {"split_used": "all", "split_reason": "test: 2 songs; all songs are used"}
    candidate = replace(candidate, metrics={**candidate.metrics, **flattered})
    for champion in (None, Champion(version="3", evaluated=evaluated(shares(0.25)))):
        decided, reasons = judge(candidate, champion, GATE)
        assert not decided
        assert reasons[1].endswith("held out to prove anything: test: 2 songs, all songs are used")
    valid_too = replace(candidate, metrics={**candidate.metrics, "split_used": "valid+test"})
    assert judge(valid_too, None, GATE)[0]


def test_more_songs_to_train_on_spare_no_candidate_the_comparison() -> None:
    candidate = evaluated(shares(0.75))
    candidate = replace(candidate, metrics={**candidate.metrics, "data_fingerprint": "grown"})
    best = Champion(version="3", evaluated=evaluated(shares(1.0)))
    decided, reasons = judge(candidate, best, GATE)
    assert not decided
    assert "worse than that of champion 3" in reasons[1]


def test_scores_of_other_tracks_are_an_error() -> None:
    best = Champion(version="3", evaluated=evaluated(shares(1.0)[:8]))
    with pytest.raises(DataError, match="72 tracks that only one"):
        judge(evaluated(shares(1.0)), best, GATE)


def test_metric_falls_back_where_styles_are_unknown() -> None:
    assert gate_metric({"chain_recall_at_1": 0.5}, GATE) == "chain_recall_at_1"
    with pytest.raises(DataError, match="style_recall_at_1"):
        gate_metric({"other": 1.0}, GATE)
    for name in ("song_recall_at_1", "chain_recall_at_1"):
        gate = replace(GATE, fallback_metric=name)
        found = evaluated(shares(1.0), name=name)
        assert judge(found, Champion(version="3", evaluated=found), gate)[0]


def test_chains_are_compared_one_by_one_where_they_are_the_same() -> None:
    name = "chain_recall_at_1"
    test = {"chain_retrieval": {"test_fingerprint": "these"}}
    good, bad = (evaluated(shares(value), name=name) for value in (1.0, 0.75))
    good, bad = (replace(each, metrics={**each.metrics, **test}) for each in (good, bad))
    decided, reasons = judge(bad, Champion(version="3", evaluated=good), GATE)
    assert not decided
    # Chains are their own units: the loss in every fourth of them leaves a width.
    assert "difference -0.2500 [-0.3" in reasons[1]
    others = {"chain_retrieval": {"test_fingerprint": "those"}}
    before = replace(good, metrics={**good.metrics, **others})
    decided, reasons = judge(bad, Champion(version="3", evaluated=before), GATE)
    assert decided
    assert "champion 3 was measured with other chains of effects: not compared" in reasons[1]


def test_chains_of_known_effects_prove_nothing() -> None:
    known = {"chain_retrieval": {"known_effects": ["comb", "ladder"]}}
    for name, is_enough in (("chain_recall_at_1", False), ("style_recall_at_1", True)):
        found = evaluated(shares(1.0), name=name)
        found = replace(found, metrics={**found.metrics, **known})
        decided, reasons = judge(found, None, GATE)
        assert decided is is_enough
        assert ("trained with 2 of the effects" in reasons[-1]) is not is_enough


def test_a_champion_of_before_the_chains_has_no_such_figure() -> None:
    candidate = evaluated(shares(0.75), name="chain_recall_at_1")
    best = Champion(version="3", evaluated=evaluated(shares(1.0), name="song_recall_at_1"))
    decided, reasons = judge(candidate, best, GATE)
    assert decided
    assert "champion 3 was measured without chain_recall_at_1, which its evaluation" in reasons[1]


def test_a_metric_of_which_less_is_better_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"promote\.metric must be one of"):
        replace(GATE, metric="style_mean_rank")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Registry("encoder")


def test_registry(registry: Registry, tmp_path: Path) -> None:
    """One story, because creating the store's schema takes seconds."""
    assert registry.champion() is None
    with pytest.raises(DataError, match="found none"):
        registry.download_champion(tmp_path / "nothing")
    with pytest.raises(DataError, match="expected a champion"):
        registry.rollback()

    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(name.encode())
        (folder / "config.json").write_text("{}")
        (folder / "notes.txt").write_text("not part of the model")
        run_id = run_of_encoder(f"encoder {name}", folder)
        assert run_of_encoder(f"encoder {name}", folder) == run_id, "found, not logged"
        made = registry.register(
            run_id=run_id,
            encoder_fingerprint=f"encoder {name}",
            data_fingerprint="data",
            metrics={"style_recall_at_1": 0.5},
        )
        registry.decide(str(made.version), Decision(True, ("good", "enough")))
    found = registry.find("encoder b")
    assert found is not None
    assert str(found.version) == "2"
    assert found.tags[DECISION_TAG] == "promoted"
    assert found.tags[REASONS_TAG] == "good; enough"
    assert registry.find("encoder c") is None

    fetched = registry.download_champion(tmp_path / "champion")
    assert {path.name for path in fetched.iterdir()} == {"weights.safetensors", "config.json"}
    assert (fetched / "weights.safetensors").read_bytes() == b"b"
    for name, content in (("models:/encoder@champion", b"b"), ("models:/encoder/1", b"a")):
        folder = tmp_path / content.decode() / "fetched"
        folder.mkdir()
        fetched = fetch_model(name, folder)
        assert (fetched / "weights.safetensors").read_bytes() == content
    with pytest.raises(DataError, match="models:/encoder@nobody"):
        fetch_model("models:/encoder@nobody", tmp_path / "nobody")

    assert registry.rollback() == ("2", "1")
    present = registry.champion()
    assert present is not None
    assert str(present.version) == "1"
    assert registry.version("2").tags[DECISION_TAG] == "rolled back"
    with pytest.raises(DataError, match="before version 1"):
        registry.rollback()
    registry.decide("1", Decision(True, ("by hand, though it is champion",)))
    with pytest.raises(DataError, match="before version 1"):
        registry.rollback()
    registry.decide("2", Decision(False, ("worse",)))
    present = registry.champion()
    assert present is not None
    assert str(present.version) == "1", "a refused version does not move the alias"
    with pytest.raises(DataError, match=r"expected one of the versions 1, 2, found 7"):
        registry.version("7")


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def full_metrics(scored: Evaluated) -> dict[str, Any]:
    """Add what the evaluation writes besides the gate's own metric."""
    methods = ("encoder", "features", "log_mel", "untrained")
    style = {m: {"recall_at_1": interval(0.5), "map": interval(0.4)} for m in methods}
    return {
        **scored.metrics,
        "num_tracks": 80,
        "num_songs": NUM_SONGS,
        "sources": ["synthetic"],
        "style_retrieval": {**style, "chance": {"recall_at_1": 0.2, "map": 0.1}},
        "song_retrieval": {"absent": "tracks are too short"},
        "probes": {
            "settings": {m: {"mean_r2": interval(0.3)} for m in methods}
            | {"chance": {"mean_r2": 0.0}},
            "style": {"absent": "styles are not known"},
            "song": {"absent": "styles are not known"},
        },
    }


def test_the_card_tells_the_pool_of_the_chains() -> None:
    methods = ("encoder", "features", "log_mel", "untrained")
    chains = {
        **{m: {"recall_at_1": interval(0.25)} for m in methods},
        "num_chains": 40,
        "lengths": [1, 4],
        "pool_size": 40,
        "chance": {"recall_at_1": 0.025},
    }
    scored = evaluated(shares(0.5))
    text = "\n".join(
        _summary("x", make_encoder(), {**full_metrics(scored), "chain_retrieval": chains})
    )
    assert "1, 4 effects on each stem, of those that `train.held_out_effects` leaves out" in text
    assert "in a pool of 40 mixes" in text
    assert "| effect chains: recall at 1 | 0.25 [0.15, 0.35] |" in text


def killed(*_: object) -> None:
    raise KilledError


def promote_in(
    place: Path, name: str, value: float, data: str = "data", root: str = "root"
) -> dict[str, Any]:
    """Promote the encoder of a name, evaluated with a value; return what was decided."""
    folder, evaluation = place / name, place / f"evaluation {name}"
    if not folder.exists():
        encoder = make_encoder()
        with torch.no_grad():
            encoder.model.project.weight += len(name)
        save_checkpoint(
            folder,
            encoder.model,
            encoder.standardisation,
            {"data_fingerprint": f"data of {name}", "metrics": {"best_epoch": 3.0}},
        )
        plot_confusion(evaluation / "plots" / "confusion.png", ["dry"], ["dry"])
    scored = evaluated(shares(value), data=data)
    write_json(evaluation / "metrics.json", full_metrics(scored))
    write_json(evaluation / "details.json", dict(scored.details))
    run(
        root=str(place / root),
        config=replace(GATE, model_name="encoder"),
        encoder=Manifest.of_files("train", folder, ["config.json"], {}),
        evaluation=Manifest.of_files("evaluate", evaluation, ["metrics.json"], {}),
    )
    written: dict[str, Any] = read_json(place / root / "promotion.json")
    return written


def test_a_version_has_its_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One story again: register, judge another one against it, measure the first anew."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    promote = partial(promote_in, tmp_path)

    def candidate_version() -> str:
        aliases = MlflowClient().get_registered_model("encoder").aliases
        return str(aliases[CANDIDATE])

    first = promote("a", 1.0)
    assert (first["version"], first["decision"], first["low"]) == ("1", "promoted", 0.9)
    registry = Registry("encoder")
    champion = registry.champion()
    assert champion is not None
    assert "style: recall at 1 | 0.5 [0.4, 0.6]" in champion.description
    fetched = registry.download_champion(tmp_path / "champion")
    card = (fetched / "README.md").read_text()
    for text in (
        "data of a",
        "feature schema: `version 1",
        "probe of the settings",
        "Not measured: song retrieval: tracks are too short.",
        # As evaluations are of before the chains.
        "Not measured: retrieval of effect chains: the evaluation is of an older version.",
        "Generated songs",
        "![confusion](figures/confusion.png)",
        load_checkpoint(tmp_path / "a").fingerprint,
    ):
        assert text in card
    drawn = tmp_path / "evaluation a" / "plots" / "confusion.png"
    assert (fetched / "figures" / "confusion.png").read_bytes() == drawn.read_bytes()
    assert load_checkpoint(fetched).fingerprint == first["encoder"]

    # Killed when the version was there and had no alias yet: the next run sets it.
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KilledError):
            promote("bb", 0.75)
    assert candidate_version() == "1"
    second = promote("bb", 0.75)
    assert candidate_version() == "2"
    assert (second["version"], second["decision"]) == ("2", "refused")
    assert "worse than that of champion 1" in second["reasons"][1]
    # Measured anew on other data, the version gets the new figures.
    again = promote("a", 0.75, data="newer")
    assert again["version"] == "1"
    assert candidate_version() == "2", "an older encoder that is judged anew is none"
    tags = registry.version("1").tags
    assert tags[DATA_TAG].startswith("newer")
    assert float(tags[f"{METRIC_TAG}style_recall_at_1"]) == 0.75
    found = read_model_json(registry.version("1"), "metrics.json")
    assert found["evaluated_fingerprint"] == "newer"
    assert read_model_json(registry.version("1"), "absent.json") is None


WRITES = (
    "create_run",
    "log_artifact",
    "log_artifacts",
    "set_tag",
    "set_terminated",
    "create_model_version",
    "set_registered_model_alias",
    "update_model_version",
    "set_model_version_tag",
)


def kill_at(patch: pytest.MonkeyPatch, last: int) -> list[str]:
    """Let a program die before one of its writes to MLflow; returns the names of those it does."""
    done: list[str] = []

    def write(name: str, original: Any, *arguments: Any, **options: Any) -> Any:
        if len(done) >= last:
            raise KilledError
        done.append(name)
        return original(*arguments, **options)

    for name in WRITES:
        original = getattr(MlflowClient, name)
        patch.setattr(MlflowClient, name, partialmethod_of(write, name, original))
    return done


def partialmethod_of(write: Any, name: str, original: Any) -> Any:
    return lambda *arguments, **options: write(name, original, *arguments, **options)


def found_in_store(client: MlflowClient) -> tuple[list[str], list[str]]:
    """List the encoders of the runs and of the versions, each as often as it is there."""
    runs = client.search_runs([connect()])
    versions = client.search_model_versions("name = 'encoder'")
    return (
        sorted(run.data.tags.get(ENCODER_TAG, "none") for run in runs),
        sorted(version.tags[ENCODER_TAG] for version in versions),
    )


def test_a_promotion_that_is_killed_at_any_write_leaves_nothing_twice(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each next start goes one write further than the one before, then one ends."""
    promote_in(tmp_path, "a", 0.75)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/undisturbed.db")
        shutil.copy(tmp_path / "mlflow.db", tmp_path / "undisturbed.db")
        undisturbed = promote_in(tmp_path, "bb", 1.0)
    assert (undisturbed["version"], undisturbed["decision"]) == ("2", "promoted")
    for last in range(40):
        with monkeypatch.context() as patch:
            done = kill_at(patch, last)
            try:
                promoted = promote_in(tmp_path, "bb", 1.0)
            except KilledError:
                continue
        break
    assert promoted == undisturbed
    assert len(done) < last + 1
    encoders = sorted(load_checkpoint(tmp_path / name).fingerprint for name in ("a", "bb"))
    assert found_in_store(client) == (encoders, encoders)
    assert {run.info.status for run in client.search_runs([connect()])} == {"FINISHED"}
    tags = client.get_model_version("encoder", "2").tags
    assert tags[PREVIOUS_TAG] == "1"
    assert promote_in(tmp_path, "bb", 1.0) == undisturbed


@pytest.mark.parametrize("write", ["create_run", "create_model_version"])
def test_of_two_promotions_of_one_encoder_at_one_moment_one_version_stays(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    original = getattr(MlflowClient, write)
    others: list[dict[str, Any]] = []

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(MlflowClient, write, original)
        others.append(promote_in(tmp_path, "a", 1.0, root="another root"))
        return original(*arguments, **options)

    monkeypatch.setattr(MlflowClient, write, overtaken)
    promoted = promote_in(tmp_path, "a", 1.0)
    assert others == [promoted]
    assert (promoted["version"], promoted["decision"]) == ("1", "promoted")
    encoder = [load_checkpoint(tmp_path / "a").fingerprint]
    assert found_in_store(client) == (encoder, encoder)
    champion = Registry("encoder").champion()
    assert champion is not None
    assert str(champion.version) == "1"
