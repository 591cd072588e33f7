import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.levels import loudness_lufs
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.features import FEATURE_NAMES, extract
from mixprint.transfer.style import STEM_OF_FEATURE_D, Style, sweep_weights
from tests.transfer.test_fit import LevelEncoder

RATE_HZ = 44_100
Make = Callable[..., Tensor]


def style(value: float, *, silent: tuple[str, ...] = (), encoder: str = "e") -> Style:
    direction_E = torch.tensor([1.0, 0.0]) if value < 0 else torch.tensor([0.0, 1.0])
    features_D = torch.full((len(FEATURE_NAMES),), value)
    return Style(f"at {value:g}", features_D, direction_E, encoder, value, silent)


def test_a_segment_is_measured(make_stems: Make) -> None:
    stems_SCT = make_stems(3.0)
    stems_SCT[1] = 0
    found = Style.of("a", [stems_SCT], RATE_HZ, encoder=LevelEncoder())
    assert torch.equal(found.features_D, extract(stems_SCT.unsqueeze(0), RATE_HZ)[0])
    assert found.silent == ("bass",)
    assert found.loudness_lufs == pytest.approx(loudness_lufs(stems_SCT.sum(0), RATE_HZ))
    assert found.encoder == "level"
    assert found.embedding_E is not None
    assert found.embedding_E.norm().item() == pytest.approx(1.0)


def test_pauses_of_a_stem_do_not_count(make_stems: Make) -> None:
    first_SCT, second_SCT = make_stems(3.0), make_stems(3.0, seed=1)
    second_SCT[1] = 0
    found = Style.of("a", [first_SCT, second_SCT], RATE_HZ)
    single_KD = torch.cat([extract(s.unsqueeze(0), RATE_HZ) for s in (first_SCT, second_SCT)])
    is_bass_D = STEM_OF_FEATURE_D == 1
    torch.testing.assert_close(found.features_D[is_bass_D], single_KD[0, is_bass_D])
    torch.testing.assert_close(found.features_D[~is_bass_D], single_KD.mean(0)[~is_bass_D])
    assert found.silent == ()
    assert found.embedding_E is None


def test_every_feature_has_its_stem() -> None:
    stems = ("vocals", "bass", "drums", "other")
    assert [FEATURE_NAMES[i].split("_")[0] for i in range(64)] == [
        stems[i] for i in STEM_OF_FEATURE_D
    ]


def test_mixes_are_linear_and_silent_stems_come_from_the_others() -> None:
    both = [style(-20.0, silent=("bass", "other")), style(10.0, silent=("other",))]
    mixed = Style.mean(both, [3, 1])
    is_bass_D = STEM_OF_FEATURE_D == 1
    torch.testing.assert_close(mixed.features_D[is_bass_D], torch.full((16,), 10.0))
    # Where no style has the stem, its values mean nothing: the plain mean.
    is_other_D = STEM_OF_FEATURE_D == 3
    torch.testing.assert_close(mixed.features_D[is_other_D], torch.full((16,), -5.0))
    rest_D = mixed.features_D[~is_bass_D & ~is_other_D]
    torch.testing.assert_close(rest_D, torch.full((32,), -12.5))
    assert mixed.silent == ("other",)
    assert mixed.loudness_lufs == pytest.approx(-12.5)
    assert mixed.embedding_E is not None
    expected_E = torch.tensor([3.0, 1.0]) / 10**0.5
    torch.testing.assert_close(mixed.embedding_E, expected_E)
    assert mixed.title == "75% at -20 + 25% at 10"


def test_a_mix_of_one_is_that_one() -> None:
    only = style(1.0)
    assert Style.mean([only], [0.3]) is only


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]])
def test_weights_are_checked(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        Style.mean([style(1.0), style(2.0)], weights)


def test_embeddings_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(CheckpointError, match="of one encoder, found e and f"):
        Style.mean([style(1.0), style(2.0, encoder="f")], [1, 1])
    opposite = style(-1.0)
    assert opposite.embedding_E is not None
    other = Style("x", opposite.features_D, -opposite.embedding_E, "e", -1.0, ())
    with pytest.raises(CheckpointError, match="cancel"):
        Style.mean([opposite, other], [1, 1])


def test_round_trip_to_the_bit(tmp_path: Path, make_stems: Make) -> None:
    found = Style.of("ä", [make_stems(3.0)], RATE_HZ, encoder=LevelEncoder())
    found.save(tmp_path / "s.json")
    again = Style.load(tmp_path / "s.json")
    assert again.to_values() == found.to_values()
    assert torch.equal(again.features_D, found.features_D)
    assert found.embedding_E is not None
    assert again.embedding_E is not None
    assert torch.equal(again.embedding_E, found.embedding_E)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "other", "expected a mixprint-style"),
        ("format_version", 9, "format version 1, found 9"),
        ("feature_schema", 7, "feature schema 1, found 7"),
        ("features", {"loud": 1.0}, "features: expected the 64 names"),
        ("loudness_lufs", "loud", "loudness_lufs: expected float"),
        ("embedding", [1.0, None], r"embedding\[1\]: expected float"),
        ("embedding", [0.5, 0.5], "embedding: expected one of length one"),
        ("embedding", [], "embedding: expected a length of"),
        ("loudness_lufs", 1e300, "loudness_lufs: expected -3e"),
        ("encoder", None, "expected an embedding with its encoder"),
        ("silent", ["piano"], "silent: expected some of"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(style(1.0).to_values() | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        Style.load(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    values = style(1.0).to_values()
    del values["silent"]
    with pytest.raises(CheckpointError, match="silent"):
        Style.from_values(values, "here")
    with pytest.raises(DataError, match=r"nowhere\.json"):
        Style.load(tmp_path / "nowhere.json")


def test_sweeps_go_from_one_to_the_other() -> None:
    assert sweep_weights(3) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    for num_mixes in (1, 102):
        with pytest.raises(ConfigError, match="sweep"):
            sweep_weights(num_mixes)
