"""Transfer by a controller, in one pass and with a fit from there."""

from typing import Any

import pytest
import torch

from mixprint.controller.checkpoint import Controller, load_controller
from mixprint.errors import CheckpointError
from mixprint.features import Standardisation
from mixprint.stems import STEMS
from mixprint.transfer.fit import fit_style
from mixprint.transfer.methods import console_search
from mixprint.transfer.style import Style
from tests.api.tiny_controller import write_controller
from tests.transfer.test_fit import RATE_HZ, settings


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Controller:
    return load_controller(write_controller(tmp_path_factory.mktemp("controller"), encoder="e"))


def test_one_pass_sets_the_console_like_the_reference(
    make_stems: Any, standardisation: Standardisation, controller: Controller
) -> None:
    source, target = make_stems(), make_stems(seed=1, gain=0.5)
    style = Style.of("b", [target], RATE_HZ)

    def found(**more: Any) -> Any:
        return fit_style(
            [source],
            style,
            RATE_HZ,
            settings(method="controller"),
            standardisation=standardisation,
            model=controller,
            **more,
        )

    result = found(reference_SCT=target)
    used = result.effect.settings(torch.ones(4))
    wanted = controller.predict(source, STEMS, RATE_HZ, stems_SCT=target, roles=STEMS)
    assert used.tracks == wanted.settings.tracks
    assert [each.step for each in result.iterations] == [0, 1]
    before, after = (x_SCT.sum(0).square().mean() for x_SCT in (source, result.stems_SCT))
    assert float(after / before) == pytest.approx(1.0, rel=1e-3)
    # Kept stems stay to the bit, and so the master is neutral; the others keep their level.
    kept = found(reference_SCT=target, keep=("bass",))
    assert torch.equal(kept.stems_SCT[1], source[1])
    assert (
        kept.effect.settings(torch.ones(4)).master.values
        == used.master.neutral(used.master.fields).values
    )
    rest = [0, 2, 3]
    before, after = (x_SCT[rest].sum(0).square().mean() for x_SCT in (source, kept.stems_SCT))
    assert float(after / before) == pytest.approx(1.0, rel=1e-3)
    # A saved style without an embedding tells a controller nothing.
    with pytest.raises(CheckpointError, match="expected one song, or an embedding"):
        found()


def test_a_fit_goes_on_from_the_prediction(
    make_stems: Any,
    standardisation: Standardisation,
    controller: Controller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of some settings, which is quicker; the master's compressor, which hears all, is on."""
    monkeypatch.setattr(console_search, "TRACK_SPREADS", {"fader_db": 6.0})
    monkeypatch.setattr(console_search, "MASTER_SPREADS", {"output_db": 8.0})
    source, target = make_stems(), make_stems(seed=1, gain=0.5)
    style = Style.of("b", [target], RATE_HZ)
    result = fit_style(
        [source],
        style,
        RATE_HZ,
        settings(method="controller+", num_steps=2, aim="target"),
        standardisation=standardisation,
        model=controller,
        reference_SCT=target,
    )
    # The pass is its first step, from which two others go on.
    assert [each.step for each in result.iterations][:2] == [0, 1]
    assert result.num_steps == 3
    predicted = controller.predict(source, STEMS, RATE_HZ, stems_SCT=target, roles=STEMS).settings
    found = result.effect.settings(torch.ones(4))
    assert found["drums.eq.high.gain_db"] == predicted["drums.eq.high.gain_db"]
    assert found["drums.fader_db"] != predicted["drums.fader_db"]
    aims = [each.aim_distance for each in result.iterations]
    assert aims[-1] < 0.9 * aims[1]
