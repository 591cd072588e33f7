from pathlib import Path

import pytest

from components.evaluate.main import EvaluateConfig
from components.features.main import FeaturesConfig
from components.ingest.main import IngestConfig
from components.promote.main import PromoteConfig
from components.separate.main import SeparateConfig
from components.step import section_json
from components.train.main import TrainConfig
from components.transfer.main import TransferConfig
from mixprint.config import StepConfig, load_params
from mixprint.errors import ConfigError
from mixprint.separation.diffusion.training_settings import DiffusionTrainConfig
from mixprint.separation.scnet.settings import SeparatorTrainConfig
from mixprint.zero_shot.settings import ZeroShotTrainConfig

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
CONFIGS: list[type[StepConfig]] = [
    IngestConfig,
    SeparateConfig,
    FeaturesConfig,
    TrainConfig,
    EvaluateConfig,
    PromoteConfig,
    TransferConfig,
    ZeroShotTrainConfig,
    SeparatorTrainConfig,
    DiffusionTrainConfig,
]


@pytest.mark.parametrize("profile", ["tiny", "full"])
@pytest.mark.parametrize("config", CONFIGS)
def test_sections_fit_their_steps(config: type[StepConfig], profile: str) -> None:
    loaded = config.load(PARAMS, profile)
    values = load_params(PARAMS, profile)[config.section]
    assert config.from_json(section_json(values)) == loaded


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (IngestConfig, "num_shards", 0),
        (IngestConfig, "test_fraction", 0.9),
        (IngestConfig, "max_reject_fraction", 1.5),
        (SeparateConfig, "overlap", 1.0),
        (SeparateConfig, "export", "mp3"),
        (SeparateConfig, "precision", "int8"),
        (SeparateConfig, "batch_size", -1),
        (FeaturesConfig, "batch_size", 0),
        (EvaluateConfig, "bootstrap_samples", 0),
        (EvaluateConfig, "num_chains", -1),
        (EvaluateConfig, "num_chains", 1),
        (EvaluateConfig, "chain_effects", [4, 0]),
        (EvaluateConfig, "chain_effects", [4, 9]),
        (EvaluateConfig, "chain_effects", [4, 4]),
        (EvaluateConfig, "chain_segment_s", 2.0),
        (PromoteConfig, "max_regression", -0.1),
        (PromoteConfig, "bootstrap_samples", 0),
        (PromoteConfig, "fallback_metric", "song_median_rank"),
        (TransferConfig, "optimize_target", "loudness"),
        (TransferConfig, "num_pairs", 0),
        (TransferConfig, "num_processes", -1),
        (TransferConfig, "methods", []),
        (TransferConfig, "methods", ["console", "magic"]),
        (TransferConfig, "segments", 0),
        (TransferConfig, "apply_to", "album"),
        (TransferConfig, "loudness", "loud"),
        (TransferConfig, "amount", "piano=1"),
    ],
)
def test_values_out_of_range_are_named(config: type[StepConfig], name: str, value: object) -> None:
    values = load_params(PARAMS)[config.section] | {name: value}
    with pytest.raises(ConfigError, match=name.removesuffix("s")):
        config.from_values(values)


def test_a_file_of_json_keeps_numbers_that_yaml_reads_as_text(tmp_path: Path) -> None:
    text = '{"train": {"learning_rate": 1e-05}}'
    (tmp_path / "params.json").write_text(text)
    assert load_params(tmp_path / "params.json") == {"train": {"learning_rate": 1e-5}}
    (tmp_path / "params.json").write_text(text[:-1])
    with pytest.raises(ConfigError, match=r"params.json: expected a readable"):
        load_params(tmp_path / "params.json")


def test_layers_and_values_lie_over_the_file_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.json"
    first.write_text("separator: {training: {batch_size: 2, seed: 3}, model: {num_dplayer: 2}}\n")
    second.write_text('{"training": {"batch_size": 4}, "zero_shot": {"seed": 5}}')
    values = load_params(
        PARAMS,
        overrides=["separator.training.seed=9", "variant=plain", "model.expand=2"],
        layers=[first, second],
        section="separator",
    )
    training, known = values["separator"]["training"], load_params(PARAMS)["separator"]["training"]
    assert training == known | {"batch_size": 4, "seed": 9}
    assert values["separator"]["variant"] == "plain"
    assert values["separator"]["model"] == {"num_dplayer": 2, "expand": 2}
    assert values["zero_shot"]["seed"] == 5


@pytest.mark.parametrize(
    ("text", "section", "message"),
    [
        ("training: {seed: 1}\n", "", r"layer\.yaml: unknown section 'training'"),
        ("trainig: {}\n", "separator", r"unknown keys \['trainig'\] in section 'separator'"),
        ("separator: 3\n", "separator", r"layer\.yaml: separator: expected a mapping"),
        ("- 1\n", "separator", r"layer\.yaml: expected a mapping"),
    ],
)
def test_layers_that_do_not_fit_are_named(
    tmp_path: Path, text: str, section: str, message: str
) -> None:
    layer = tmp_path / "layer.yaml"
    layer.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params(PARAMS, layers=[layer], section=section)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training", "section.key=value"),
        ("seed=1", "section.key=value"),
        ("trainig.seed=1", "trainig"),
        ("separator.training.seed=[1", "override 'separator.training.seed=\\[1': expected YAML"),
    ],
)
def test_values_that_do_not_fit_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_params(PARAMS, overrides=[text])
