"""Separators by method, and those that can give four stems."""

import logging
from pathlib import Path

import pytest

from mixprint.errors import ConfigError
from mixprint.separation import Separator
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.source import SeparatorSource, of_four_stems
from mixprint.stems import STEMS
from tests.separation.diffusion.trials import WINDOW_S, denoiser, separator
from tests.separation.networks import ToyNetwork


def test_four_stems_are_left_as_they_are() -> None:
    for network in (ToyNetwork(), separator(num_stems=4)):
        given = Separator(network)
        assert of_four_stems(given) is given


def test_an_instrumental_is_divided_where_there_is_a_prior() -> None:
    given = Separator(separator(), precision="bfloat16")
    four = of_four_stems(given)
    assert four.stems == STEMS
    assert four.precision == "bfloat16"
    assert given.stems == ("vocals", "instrumental")


def test_other_stems_are_refused() -> None:
    alone = DiffusionSeparator(denoiser(), window_s=WINDOW_S, sampling=SamplingSettings())
    with pytest.raises(ConfigError, match="found one of vocals, instrumental"):
        of_four_stems(Separator(alone))
    with pytest.raises(ConfigError, match="found one of voice, noise"):
        of_four_stems(Separator(ToyNetwork(stems=("voice", "noise"))))


def test_what_does_nothing_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="expected steps with the method diffusion only"):
        SeparatorSource("nowhere", sampling={"steps": 2})
    with pytest.raises(ConfigError, match="compile"):
        SeparatorSource("nowhere", method="diffusion", compile=True)


def test_a_start_with_the_mixture_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = DiffusionSeparator(denoiser(), window_s=WINDOW_S, sampling=SamplingSettings())
    path = export_diffusion(alone, tmp_path)
    changes = {"start": "mixture", "strength": 0.5}
    with caplog.at_level(logging.WARNING):
        found = SeparatorSource(str(path), method="diffusion", sampling=changes).load()
        found.network.configured(sampling=SamplingSettings(**changes, seed=1))
    # Halfway signal and noise have one gain, and the signal half of the deviation.
    assert caplog.text.count("mixture at -6.0 dB above the noise") == 1


@pytest.mark.parametrize(
    ("known", "changes", "expected"),
    [
        ({}, {}, {}),
        ({"steps": 7}, {"seed": 2}, {"steps": 7, "seed": 2}),
        (
            {"sampler": "ddim", "eta": 0.5},
            {"steps": 3},
            {"steps": 3, "sampler": "ddim", "eta": 0.5},
        ),
        ({"sampler": "ddim", "eta": 0.5}, {"sampler": "dpm"}, {}),
        ({"sampler": "ddim", "eta": 0.5}, {"steps": 1}, {"steps": 1, "sampler": "ddim"}),
        ({}, {"start": "prior"}, {"start": "prior", "strength": 0.3}),
        ({}, {"start": "prior", "strength": 0.2}, {"start": "prior", "strength": 0.2}),
        ({"start": "prior", "strength": 0.2}, {"start": "noise"}, {}),
        (
            {"start": "prior", "strength": 0.2},
            {"start": "prior"},
            {"start": "prior", "strength": 0.2},
        ),
    ],
)
def test_changes_leave_the_rest(known: dict, changes: dict, expected: dict) -> None:
    assert SamplingSettings(**known).with_changes(changes) == SamplingSettings(**expected)


def test_changes_that_do_nothing_or_are_unknown_are_refused() -> None:
    for changes in ({"eta": 0.5}, {"strength": 0.5}, {"temperature": 1}, {"steps": 0}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            SamplingSettings().with_changes(changes)
