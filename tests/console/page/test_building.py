"""What the console's page holds."""

import base64
import io
import json
import re

import pytest
import soundfile as sf
import torch

from mixprint.console.page.building import console_page, excerpt_seconds, live_console
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS
from mixprint.console.settings import Settings
from mixprint.errors import ConfigError
from mixprint.pages.clips import faded

RATE_HZ = 44_100


def noise(num_tracks: int, seconds: float, rate_hz: int = RATE_HZ) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(num_tracks, 2, round(seconds * rate_hz), generator=generator)


def test_the_page_loads_nothing_and_shows_names_as_text() -> None:
    name = "</script><script>alert(1)</script>"
    page = console_page(Settings.neutral([name]), noise(1, 1.0), RATE_HZ, title=name)
    assert name not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "http://www.w3.org/2000/svg" in page  # a name, which nothing is loaded from
    assert len(re.findall(r"https?://", page)) == 1


def test_tracks_are_held_in_16_bits_that_their_peak_fills() -> None:
    tracks_NCT = noise(2, 1.0)
    tracks_NCT[1] = 1e-4 * tracks_NCT[1, :1]
    values = live_console(Settings.neutral(["a", "b"]), tracks_NCT, RATE_HZ).values
    for track, audio_CT, num_channels in zip(values["tracks"], tracks_NCT, (2, 1), strict=True):
        flac = io.BytesIO(base64.b64decode(track["audio"]))
        held_TC, rate_hz = sf.read(flac, always_2d=True)
        assert (rate_hz, held_TC.shape) == (RATE_HZ, (RATE_HZ, num_channels))
        held_CT = track["level"] * torch.from_numpy(held_TC.T.copy()).expand(2, -1)
        step = float(audio_CT.abs().max()) / 32_767
        torch.testing.assert_close(
            held_CT, faded(audio_CT, RATE_HZ).double(), rtol=0, atol=0.51 * step
        )
    assert values["before"] is None


def test_of_a_long_song_the_busiest_seconds_are_held() -> None:
    tracks_NCT = noise(6, 60.0, 8_000)
    tracks_NCT[3, :, : 35 * 8_000] = 0.0
    tracks_NCT[3, :, 55 * 8_000 :] = 0.0
    settings = Settings.neutral([str(n) for n in range(6)])
    values = live_console(settings, tracks_NCT, 8_000, start_s=100.0).values
    assert (values["start_s"], values["num_samples"]) == (135.0, 20 * 8_000)
    assert [excerpt_seconds(n) for n in (1, 4, 12, 32)] == [20, 20, 10, 4]


def test_high_rates_are_halved() -> None:
    values = live_console(Settings.neutral(["a"]), noise(1, 1.0, 96_000), 96_000).values
    assert (values["rate_hz"], values["num_samples"]) == (48_000, 48_000)


def test_all_that_is_known_of_settings_comes_from_the_table() -> None:
    values = live_console(Settings.neutral(["a"]), noise(1, 0.5), RATE_HZ).values
    for shown, fields in (
        (values["fields"], TRACK_FIELDS),
        (values["master_fields"], MASTER_FIELDS),
    ):
        assert [(f["name"], f["low"], f["high"], f["neutral"], f["scale"]) for f in shown] == [
            (f.name, f.low, f.high, f.neutral, f.scale) for f in fields
        ]
    by_name = {field["name"]: field for field in values["fields"]}
    assert by_name["comp.slope"]["title"] == "comp ratio"
    assert by_name["room.low_ratio"]["label"] == "low ratio"
    ends = [field["name"] for field in values["fields"] if field["ends_off"]]
    assert ends == ["eq.highpass_hz", "eq.lowpass_hz", "drive.mix", "room.send_db"]
    assert json.loads(json.dumps(values["settings"])) == Settings.neutral(["a"]).to_values()


def test_others_tracks_are_refused() -> None:
    with pytest.raises(ConfigError, match="desk: expected 1 tracks, found 2"):
        live_console(Settings.neutral(["a"]), noise(2, 0.5), RATE_HZ, name="desk")
    with pytest.raises(ConfigError, match="expected earlier settings of a with rooms as inserts"):
        live_console(
            Settings.neutral(["a"]), noise(1, 0.5), RATE_HZ, before=Settings.neutral(["b"])
        )
