"""The choice of the device."""

import logging

import pytest
import torch

from mixprint.errors import ConfigError
from mixprint.machine import xla
from mixprint.machine.device import resolve_device, training_device
from tests.components.workplace import REPOSITORY


def test_cpu_is_the_cpu() -> None:
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    logger = logging.getLogger("mixprint.device")
    monkeypatch.setattr(logger.parent, "propagate", True)
    with caplog.at_level(logging.INFO, "mixprint.machine.device"):
        assert resolve_device("auto") == torch.device("cpu")
        assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert resolve_device("cuda") == torch.device("cpu")
        assert [r for r in caplog.records if r.levelno == logging.WARNING]


def test_a_gpu_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cuda:2") == torch.device("cpu")


@pytest.mark.gpu
def test_a_gpu_is_found() -> None:
    device = resolve_device("auto")
    assert torch.zeros(1, device=device).device == torch.device("cuda", 0)


def test_xla_is_for_trainings_that_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(xla, "find_spec", lambda name: None)
    assert (REPOSITORY / xla.REQUIREMENTS).is_file()
    with pytest.raises(ConfigError, match=xla.REQUIREMENTS):
        training_device("xla")
    monkeypatch.setattr(xla, "find_spec", lambda name: name)
    assert training_device("xla") == torch.device("xla")
    assert training_device("auto") == resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "xla", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)
