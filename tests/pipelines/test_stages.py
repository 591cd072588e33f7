"""What each step's results follow from: in the recipes, and in dvc.yaml."""

import importlib
from pathlib import Path

import pytest
import yaml

import mixprint.fingerprint
from components.step import STEPS
from mixprint.fingerprint import code_files, code_version
from pipelines.stages import STAGES_FILE, with_code

# Of what each step does, files that must count, and files that must not.
AUDIO = ("mixprint/audio/decoding.py", "mixprint/audio/mp3.py", "mixprint/audio/resampling.py")
SHARDS = ("mixprint/collection/shards.py", "mixprint/stems.py", "mixprint/storage/tables.py")
SEPARATION = ("mixprint/separation/separator.py", "mixprint/separation/scnet/model.py")
TRAINING = ("mixprint/training/schedules.py", "mixprint/encoder/training.py")
EXPECTED = {
    "ingest": (
        (*AUDIO, "mixprint/collection/sources.py", "components/ingest/main.py"),
        (*SEPARATION, *TRAINING, "mixprint/collection/shards.py"),
    ),
    "separate": (
        (*AUDIO, *SHARDS, *SEPARATION, "mixprint/separation/sharding.py"),
        (*TRAINING, "mixprint/audio/inspection.py", "mixprint/separation/metrics.py"),
    ),
    "features": (
        (*SHARDS, "mixprint/features/extraction.py", "mixprint/dsp/loudness.py"),
        (*SEPARATION, *TRAINING, *AUDIO),
    ),
    "train": (
        (*SHARDS, *TRAINING, "mixprint/features/table.py", "mixprint/training/ranks.py"),
        (*SEPARATION, *AUDIO, "mixprint/zero_shot/training.py"),
    ),
    "evaluate": (
        (*SHARDS, *AUDIO, "mixprint/encoder/model.py", "mixprint/pages/page.py"),
        (*SEPARATION, *TRAINING),
    ),
    "promote": (("components/promote/main.py", "mixprint/evaluation/card.py"), TRAINING),
    "transfer": (
        (*SHARDS, *AUDIO, *SEPARATION, "mixprint/transfer/jobs.py", "mixprint/pages/sync.js"),
        (*TRAINING, "mixprint/separation/sharding.py"),
    ),
}


def roots(step: str) -> tuple[str, ...]:
    return importlib.import_module(f"components.{step}.main").CODE


@pytest.mark.parametrize("step", STEPS)
def test_a_result_follows_from_all_that_makes_it_and_nothing_else(step: str) -> None:
    needed, foreign = EXPECTED[step]
    found = set(code_files(*roots(step)))
    assert set(needed) <= found
    assert not set(foreign) & found


def test_zero_shot_follows_from_its_own_training_and_the_schedules() -> None:
    found = set(code_files(*importlib.import_module("components.train.zero_shot").CODE))
    assert {"mixprint/zero_shot/training.py", "mixprint/training/schedules.py", *SHARDS} <= found
    assert not {*SEPARATION, "mixprint/encoder/training.py"} & found


def test_an_edit_of_the_schedules_trains_again_and_separates_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {step: code_version(*roots(step)) for step in STEPS}
    read = mixprint.fingerprint.file_sha256

    def edited(path: Path) -> str:
        return "edited" if path.name == "schedules.py" else read(path)

    monkeypatch.setattr("mixprint.fingerprint.file_sha256", edited)
    code_version.cache_clear()
    after = {step: code_version(*roots(step)) for step in STEPS}
    code_version.cache_clear()
    assert [step for step in STEPS if after[step] != before[step]] == ["train"]


def test_the_stages_of_dvc_depend_on_that_code() -> None:
    stages = STAGES_FILE.read_text()
    assert with_code(stages) == stages, "run `make pipeline-compile`"


def test_stages_keep_all_but_their_code() -> None:
    stages = STAGES_FILE.read_text()
    without = stages.replace("      - mixprint/audio/files.py\n", "")
    assert without != stages
    assert with_code(without) == stages
    added = stages.replace("      - components/ingest/main.py\n", "      - mixprint/zero_shot\n")
    assert with_code(added) == stages


def test_dvc_separates_again_with_another_separator() -> None:
    deps = yaml.safe_load(STAGES_FILE.read_text())["stages"]["separate"]["deps"]
    suffixes, names = (".json", ".safetensors"), ("diffusion", "separator")
    shipped = [f"mixprint/weights/{name}{suffix}" for name in names for suffix in suffixes]
    assert [dep for dep in deps if "/weights/" in dep] == shipped
