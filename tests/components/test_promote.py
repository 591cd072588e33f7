from pathlib import Path

import pytest

from components import tracking
from components.promote.main import Champion, PromoteConfig, gate_metric, judge
from mixprint.errors import DataError

GATE = PromoteConfig(
    model_name="encoder",
    metric="style_recall_at_1",
    fallback_metric="song_recall_at_1",
    min_metric=0.5,
    max_regression=0.1,
)


def champion(value: float, data: str = "data") -> Champion:
    return Champion(version="3", metrics={"style_recall_at_1": value}, data_fingerprint=data)


@pytest.mark.parametrize(
    ("value", "best", "promoted"),
    [
        (0.5, None, True),  # meets the minimum exactly
        (0.49, None, False),
        (0.8, 0.9, True),  # the allowed loss exactly
        (0.79, 0.9, False),
        (0.95, 0.9, True),
        (0.45, 0.5, False),  # not much worse than the champion, but below the minimum
    ],
)
def test_gate(value: float, best: float | None, promoted: bool) -> None:
    present = None if best is None else champion(best)
    decided, reasons = judge({"style_recall_at_1": value}, "data", present, GATE)
    assert decided is promoted
    assert f"{value:.4f}" in reasons[0]


def test_champion_measured_on_other_data_is_no_yardstick() -> None:
    decided, reasons = judge({"style_recall_at_1": 0.6}, "data", champion(1.0, "older"), GATE)
    assert decided
    assert "other data" in reasons[1]


def test_metric_falls_back_where_styles_are_unknown() -> None:
    assert gate_metric({"song_recall_at_1": 0.5}, GATE) == "song_recall_at_1"
    with pytest.raises(DataError, match="style_recall_at_1"):
        gate_metric({"other": 1.0}, GATE)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tracking.Registry:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tracking.Registry("encoder")


def test_registry(registry: tracking.Registry, tmp_path: Path) -> None:
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
        run_id = tracking.run_of_encoder(f"encoder {name}", folder)
        assert tracking.run_of_encoder(f"encoder {name}", folder) == run_id, "found, not logged"
        made = registry.register(
            run_id=run_id,
            encoder_fingerprint=f"encoder {name}",
            data_fingerprint="data",
            metrics={"style_recall_at_1": 0.5},
        )
        registry.decide(str(made.version), tracking.Decision(True, ("good", "enough")))
    found = registry.find("encoder b")
    assert found is not None
    assert str(found.version) == "2"
    assert found.tags[tracking.DECISION_TAG] == "promoted"
    assert found.tags[tracking.REASONS_TAG] == "good; enough"
    assert registry.find("encoder c") is None

    fetched = registry.download_champion(tmp_path / "champion")
    assert {path.name for path in fetched.iterdir()} == {"weights.safetensors", "config.json"}
    assert (fetched / "weights.safetensors").read_bytes() == b"b"

    assert registry.rollback() == ("2", "1")
    present = registry.champion()
    assert present is not None
    assert str(present.version) == "1"
    assert registry.version("2").tags[tracking.DECISION_TAG] == "rolled back"
    with pytest.raises(DataError, match="before version 1"):
        registry.rollback()
    registry.decide("1", tracking.Decision(True, ("by hand, though it is champion",)))
    with pytest.raises(DataError, match="before version 1"):
        registry.rollback()
    registry.decide("2", tracking.Decision(False, ("worse",)))
    present = registry.champion()
    assert present is not None
    assert str(present.version) == "1", "a refused version does not move the alias"
    with pytest.raises(DataError, match=r"expected one of the versions \[1, 2\], got '7'"):
        registry.version("7")
