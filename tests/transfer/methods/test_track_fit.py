"""Steps of a fit of several tracks, from settings that were predicted on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.errors import AudioError
from mixprint.features import Standardisation
from mixprint.transfer.methods import console_search, track_fit
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.style import Style
from tests.transfer.test_fit import RATE_HZ

NAMES = ("vocals", "backing", "bass")


def test_tracks_that_share_a_stem_find_their_faders(
    make_stems: Any, standardisation: Standardisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth is the prediction with other faders; what is aimed at are its own features."""
    monkeypatch.setattr(console_search, "TRACK_SPREADS", {"fader_db": 6.0})
    monkeypatch.setattr(console_search, "MASTER_SPREADS", {})
    monkeypatch.setattr(track_fit, "Hyperparameters", literal)
    tracks_NCT = make_stems()[:3, :, : 3 * RATE_HZ].clone()
    tracks_NCT[1] = 0.05 * tracks_NCT[1].flip(-1).cumsum(-1)  # a dark one
    predicted = Settings.neutral(NAMES)
    truth = predicted.edit({"vocals.fader_db": 4.0, "backing.fader_db": -5.0})
    made_NCT = render(tracks_NCT, truth, RATE_HZ).float()
    silent_2CT = torch.zeros(2, *made_NCT.shape[1:])
    stems_SCT = torch.cat([made_NCT[:2].sum(0)[None], made_NCT[2:], silent_2CT])
    style = Style.of("b", [stems_SCT], RATE_HZ)
    spread = {name: {"fader_db": 5.0, "pan": 0.1} for name in NAMES}

    def found(tracks_NCT: Tensor, **changes: Any) -> track_fit.TrackFit:
        given = {"style": style, "num_steps": 3} | changes
        return track_fit.fit_tracks(
            tracks_NCT,
            ("vocals", "backing", "bass"),
            predicted,
            spread,
            sample_rate_hz=RATE_HZ,
            standardisation=standardisation,
            locked=("bass",),
            **given,
        )

    fit = found(tracks_NCT)
    for name in ("vocals", "backing"):
        assert fit.settings[f"{name}.fader_db"] == pytest.approx(truth[f"{name}.fader_db"], abs=1.0)
        # What was heard leaves less of the spread; what was not looked for keeps it.
        assert fit.spread[name]["fader_db"] < 1.0
        assert fit.spread[name]["pan"] == 0.1
    assert fit.settings.tracks["bass"] == predicted.tracks["bass"]
    assert fit.spread["bass"] == {}
    assert fit.after < 0.3 * fit.before
    assert fit.num_steps == 3
    # A stem that is silent in the reference is set as predicted.
    silent = replace(style, silent=("vocals", "drums", "other"))
    alone = found(tracks_NCT, style=silent, num_steps=1)
    assert alone.settings == predicted
    assert alone.notes == ("vocals: silent in the reference, set as predicted",)
    with pytest.raises(AudioError, match="tracks: expected at least 3 s"):
        found(tracks_NCT[..., :RATE_HZ])


def literal(**values: Any) -> Hyperparameters:
    return Hyperparameters(**values, aim="target")
