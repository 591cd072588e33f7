from pathlib import Path

import pytest
import torch

from mixprint.errors import CheckpointError, DataError
from mixprint.features import FEATURE_NAMES, Standardisation, feature_distance
from mixprint.features.standardisation import MIN_STD_BY_UNIT
from mixprint.storage.atomic import read_json, write_json

D = len(FEATURE_NAMES)


def some_features(num_rows: int = 50) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale_D = torch.linspace(1, 10, D)
    return 5 + scale_D * torch.randn(num_rows, D, generator=generator)


def test_fitted_features_have_mean_zero_and_deviation_one() -> None:
    features_BD = some_features()
    standard_BD = Standardisation.fit(features_BD).apply(features_BD)
    torch.testing.assert_close(standard_BD.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard_BD.std(0, correction=0), torch.ones(D))


def test_constant_features_get_the_floor_of_their_unit() -> None:
    standardisation = Standardisation.fit(torch.zeros(4, D))
    by_name = dict(zip(FEATURE_NAMES, standardisation.std_D.tolist(), strict=True))
    assert by_name["bass_ild_db"] == MIN_STD_BY_UNIT["dB"]
    assert by_name["bass_correlation"] == pytest.approx(MIN_STD_BY_UNIT["1"])
    assert by_name["bass_spectral_tilt_db_per_octave"] == pytest.approx(0.1)


def test_distance_is_the_rms_of_standard_deviations() -> None:
    standardisation = Standardisation(torch.zeros(D), torch.full((D,), 2.0))
    a_BD = torch.zeros(2, D)
    b_BD = torch.stack(
        [torch.full((D,), 2.0), torch.nn.functional.one_hot(torch.tensor(3), D) * 4.0]
    )
    distance_B = feature_distance(a_BD, b_BD, standardisation)
    # One deviation in each feature; then two deviations in one of 64: sqrt(4 / 64).
    assert distance_B.tolist() == pytest.approx([1.0, 0.25])


def test_distance_of_equals_is_zero_with_zero_gradient() -> None:
    a_BD = some_features(3).requires_grad_()
    distance_B = feature_distance(a_BD, a_BD.detach().clone(), Standardisation.fit(some_features()))
    distance_B.sum().backward()
    assert distance_B.tolist() == [0.0] * 3
    assert torch.equal(a_BD.grad, torch.zeros_like(a_BD))


@pytest.mark.parametrize("blocks", [("stem",), ("mix",), ("stem", "mix")])
def test_json_round_trip_is_exact(tmp_path: Path, blocks: tuple) -> None:
    columns = {("stem",): slice(0, 56), ("mix",): slice(56, 64)}.get(blocks, slice(0, 64))
    fitted = Standardisation.fit(some_features()[:, columns], blocks=blocks)
    fitted.save(tmp_path / "standardisation.json")
    loaded = Standardisation.load(tmp_path / "standardisation.json")
    assert torch.equal(loaded.mean_D, fitted.mean_D)
    assert torch.equal(loaded.std_D, fitted.std_D)
    assert loaded.blocks == blocks


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 2, "expected feature schema 1, found 2"),
        ("names", ["loudness"], "other names"),
        ("blocks", ["mix", "stem"], "blocks"),
        ("blocks", 3, "blocks: expected a list, found 3"),
        ("mean", [0.0], "expected 64 finite numbers"),
        ("std", ["1"] * D, r"std\[0\]: expected float"),
        ("std", [0.0] * D, r"std\[0\]: expected 1e-06 to 3e\+38, found 0.0"),
        ("mean", [1e300] * D, r"mean\[0\]: expected -3e\+38"),
    ],
)
def test_loading_refuses_what_does_not_fit(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = tmp_path / "standardisation.json"
    Standardisation.fit(some_features()).save(path)
    write_json(path, read_json(path) | {key: value})
    with pytest.raises(CheckpointError, match=message) as caught:
        Standardisation.load(path)
    assert str(path) in str(caught.value)


def test_loading_refuses_incomplete_and_foreign_json(tmp_path: Path) -> None:
    path = tmp_path / "standardisation.json"
    for value in ({"mean": []}, [1, 2]):
        write_json(path, value)
        with pytest.raises(CheckpointError, match="expected a standardisation"):
            Standardisation.load(path)


def test_fit_refuses_what_is_not_finite_and_names_it() -> None:
    features_BD = some_features()
    features_BD[3, FEATURE_NAMES.index("drums_masking")] = float("nan")
    with pytest.raises(DataError, match="drums_masking"):
        Standardisation.fit(features_BD)
    with pytest.raises(DataError, match="expected features"):
        Standardisation.fit(features_BD[:0])
    with pytest.raises(DataError, match="expected features"):
        Standardisation.fit(features_BD[:, :56])


def test_apply_refuses_other_blocks() -> None:
    with pytest.raises(ValueError, match="expected 64 features"):
        Standardisation.fit(some_features()).apply(torch.zeros(2, 56))
