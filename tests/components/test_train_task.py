"""What every training task has, shown on one that is added: command line, ranks, tracking."""

import sys
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from components.train import __main__ as command
from components.train.job import TASKS, find_task, load_task
from mixprint.checkpoints.torchfile import read_tensors
from mixprint.training.engine import train
from mixprint.training.task import Length
from tests.components.workplace import REPOSITORY
from tests.training.toys import AdversarialToy, plan

PARAMS = "toy: {steps: 9, seed: 9, num_processes: 2, device: cpu}\n"


def test_a_task_that_is_added_has_every_door(
    tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "toy", "tests.components.toy_task")
    monkeypatch.chdir(REPOSITORY)
    for name, text in (
        ("params.yaml", PARAMS),
        ("first.yaml", "toy: {steps: 8, seed: 8}\n"),
        ("second.yaml", "seed: 7\n"),  # outside of a section: the task's own
    ):
        (tmp_path / name).write_text(text)
    line = f"--task toy --out {tmp_path / 'out'} --params {tmp_path / 'params.yaml'}"
    line += f" --config {tmp_path / 'first.yaml'} --config {tmp_path / 'second.yaml'}"
    monkeypatch.setattr(sys, "argv", ["train", *line.split(), "--set", "toy.steps=4"])
    command.main()

    how = plan(length=Length(steps=4), seed=7)
    train(lambda device: AdversarialToy(how, device), tmp_path / "alone")
    for name, alone in read_tensors(tmp_path / "alone" / "weights.safetensors").items():
        together = read_tensors(tmp_path / "out" / "weights.safetensors")[name]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)

    experiment = client.get_experiment_by_name("mixprint-toy")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.params["steps"], run.data.params["seed"]) == ("4", "7")
    assert {"train.loss", "valid.distance"} <= run.data.metrics.keys()
    logged = {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert logged == {"model/weights.safetensors", "model/config.json"}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_found_by_their_names(name: str) -> None:
    task = find_task(name)
    assert task.name == name
    assert load_task(task.module) is task, "a rank finds the same one"
