"""Recipes: files laid over each other, overrides, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixprint.errors import ConfigError
from mixprint.separation.scnet.recipe import DEFAULT_MODEL, Recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modell": {}}, "modell"),
        ({"training": {"epochs": 3}}, "epochs"),
        ({"training": {"segment_s": "4"}}, "segment_s"),
        ({"training": {"precision": "float16"}}, "precision"),
        ({"training": {"max_minutes": 0.0}}, "max_minutes"),
        ({"training": {"valid_steps": 0}}, "valid_steps"),
        ({"training": {"num_workers": -1}}, "num_workers"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"training": 3}, "training"),
        ({"remix": {"gain": 1.0}}, "gain"),
        ({"remix": {"tempo_range": 0.9}}, "tempo_range"),
        ({"songs": {"pool_size": 0}}, "pool_size"),
        ({"model": {"num_dplayer": 3}}, "num_dplayer"),
    ],
)
def test_wrong_recipes_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.from_values(values)


def test_round_trip() -> None:
    recipe = Recipe.from_values({"variant": "plain", "model": {"num_dplayer": 2}})
    assert Recipe.from_values(json.loads(json.dumps(recipe.to_values()))) == recipe
    assert Recipe.from_values(json.loads(json.dumps(Recipe().to_values()))) == Recipe()


def test_later_files_and_overrides_lie_over_earlier_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("training: {batch_size: 2, learning_rate: 0.1}\nmodel: {num_dplayer: 2}\n")
    second.write_text("training: {batch_size: 4}\nvariant: masked\n")
    recipe = Recipe.load([first, second], ["training.seed=9", "variant=plain"])
    assert recipe.training.batch_size == 4
    assert recipe.training.learning_rate == 0.1
    assert recipe.training.seed == 9
    assert recipe.variant == "plain"
    assert recipe.model is not None
    assert recipe.model.num_dplayer == 2
    assert recipe.model.dims == DEFAULT_MODEL.dims
    assert Recipe.load([]) == Recipe()


def test_files_and_overrides_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(ConfigError, match=r"recipe\.yaml"):
        Recipe.load([path])
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        Recipe.load([path])
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        Recipe.load([], ["training"])
    with pytest.raises(ConfigError, match="trainig"):
        Recipe.load([], ["trainig.seed=1"])


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"override 'training\.seed=\[1': expected YAML"):
        Recipe.load([], ["training.seed=[1"])
