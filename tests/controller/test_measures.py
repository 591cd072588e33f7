import torch

from mixprint.console.settings import Settings
from mixprint.controller.measures import heard
from mixprint.controller.targets import TRACK
from mixprint.dsp.equaliser import convolved

RATE_HZ = 44_100
NAMES = [each.name for each in TRACK.fields]


def test_settings_weigh_as_much_as_they_are_heard() -> None:
    generator = torch.Generator().manual_seed(0)
    noise_NCT = 0.1 * torch.randn(3, 2, RATE_HZ // 2, generator=generator)
    # A bass: twice through a mean of 64 samples, below 700 Hz; and mono.
    kernel_NT = torch.full((3, 64), 1 / 64, dtype=torch.float64)
    bass_CT = convolved(convolved(noise_NCT, kernel_NT), kernel_NT)[0].mean(0).expand(2, -1)
    tracks_NCT = torch.stack([noise_NCT[0], bass_CT, torch.zeros_like(bass_CT)])
    changes = {
        "noise.comp.slope": 0.5,
        "noise.comp.threshold_db": -40.0,
        "bass.comp.slope": 0.5,
        "bass.comp.threshold_db": 0.0,
        "noise.room.send_db": -10.0,
        "noise.eq.bell1.gain_db": 6.0,
        "bass.eq.bell1.gain_db": 3.0,
    }
    names = ["noise", "bass", "silent"]
    settings = Settings.neutral(names).edit(changes)
    weights = heard(tracks_NCT, settings, RATE_HZ)
    noise, bass, silent = (dict(zip(NAMES, row, strict=True)) for row in weights.track_NK.tolist())
    assert set(silent.values()) == {0.0}
    assert noise["comp.attack_ms"] == 1.0
    assert bass["comp.attack_ms"] == 0.0 < bass["comp.slope"] < 0.5
    assert noise["room.time_s"] == 1.0
    assert bass["room.time_s"] == 0.0 < bass["room.send_db"] < 0.5
    # The bass has nothing at 4 kHz, and what a bell of 0 dB is set to nobody hears.
    assert noise["eq.bell3.gain_db"] > 0.8 > bass["eq.bell3.gain_db"] + 0.5
    assert bass["eq.bell1.gain_db"] > 0.7
    assert 0.4 < bass["eq.bell1.q"] / bass["eq.bell1.gain_db"] < 0.6
    assert noise["eq.bell2.freq_hz"] == 0.0
    assert noise["width"] == 1.0
    assert bass["width"] == 0.0
    assert noise["fader_db"] == bass["pan"] == float(weights.master_K[-1]) == 1.0
