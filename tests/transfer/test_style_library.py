import math
from pathlib import Path

import pytest
import torch

from mixprint.errors import DataError
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.transfer.style import Style
from mixprint.transfer.style_library import load_library, nearest

STANDARDISATION = Standardisation(
    torch.full((len(FEATURE_NAMES),), -20.0), torch.full((len(FEATURE_NAMES),), 5.0)
)


def style(
    title: str,
    changes: dict[str, float],
    angle: float = 0.0,
    silent: tuple[str, ...] = (),
    encoder: str | None = "e",
) -> Style:
    values = torch.tensor([changes.get(name, -20.0) for name in FEATURE_NAMES])
    embedding_E = torch.tensor([math.cos(angle), math.sin(angle)])
    return Style(title, values, None if encoder is None else embedding_E, encoder, -14.0, silent)


def saved(folder: Path, *styles: Style) -> Path:
    for each in styles:
        each.save(folder / f"{each.title}.json")
    return folder


def test_the_nearest_comes_first_and_differences_are_said(tmp_path: Path) -> None:
    louder = {"vocals_loudness_lufs": -17.0, "vocals_relative_loudness_lu": -17.0}
    library = load_library(
        saved(tmp_path, style("far", {}, 1.0), style("near", louder, 0.1), style("same", {}))
    )
    same, near, far = nearest(style("x", {}), library, STANDARDISATION, 5)
    assert (same.style.title, near.style.title, far.style.title) == ("same", "near", "far")
    assert same.likeness == pytest.approx(1.0)
    assert same.distance == 0.0
    assert same.differences == {}
    # Two of 64 features differ by 3 dB, of which 5 are a standard deviation.
    assert near.distance == pytest.approx(0.6 * (2 / 64) ** 0.5)
    assert near.likeness == pytest.approx(math.cos(0.1))
    assert near.differences["vocals"][0] == "3.0 dB louder"
    assert near.path == tmp_path / "near.json"
    assert len(nearest(style("x", {}), library, STANDARDISATION, 2)) == 2


def test_without_common_embeddings_the_features_decide(tmp_path: Path) -> None:
    near, far = {"bass_ild_db": -19.0}, {"bass_ild_db": -10.0}
    library = load_library(
        saved(tmp_path, style("a", far), style("b", near, 1.5), style("c", near, encoder="other"))
    )
    found = nearest(style("x", {}), library, STANDARDISATION, 3)
    assert [match.style.title for match in found] == ["b", "c", "a"]
    assert found[1].likeness is None


def test_stems_that_do_not_sound_in_both_do_not_count(tmp_path: Path) -> None:
    differs = {name: 0.0 for name in FEATURE_NAMES if name.startswith("bass_")}
    library = load_library(saved(tmp_path, style("a", differs, silent=("bass",))))
    (match,) = nearest(style("x", {}), library, STANDARDISATION, 1)
    assert match.distance == 0.0
    nothing = ("vocals", "bass", "drums", "other")
    (match,) = nearest(style("x", {}, silent=nothing), library, STANDARDISATION, 1)
    assert match.distance == 0.0


def test_what_is_no_style_is_listed(tmp_path: Path) -> None:
    saved(tmp_path, style("a", {}))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no style")
    library = load_library(tmp_path)
    assert [each.title for each in library.styles.values()] == ["a"]
    broken, foreign = library.refused
    assert "b.json: expected a readable JSON file" in broken
    assert "c.json: expected a mixprint-style" in foreign
    with pytest.raises(DataError, match="none: expected a folder of saved styles, found none"):
        load_library(tmp_path / "none")
