"""Plug-ins for REAPER: their text runs, and computes what the console does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixprint.audio.files import write_audio
from mixprint.console.export.jsfx import (
    MASTER_DELAY_SAMPLES,
    MASTER_NAME,
    ROOM_FIELDS,
    ROOM_NAME,
    STRIP_DELAY_SAMPLES,
    STRIP_NAME,
    plug_ins,
    slider_values,
)
from mixprint.console.export.reaper import write_reaper
from mixprint.console.export.song import Export
from mixprint.console.rendering import render
from mixprint.console.rpp import Line, parse
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, Field
from mixprint.console.settings import Rooms, Settings, Strip
from tests.console.export.eel import Plugin
from tests.console.test_rendering import EVERYTHING, NAMES, RATE_HZ, error_db, tracks

EQUALISER = {
    "eq.highpass_hz": 60.0,
    "eq.lowpass_hz": 9_000.0,
    "eq.low.gain_db": 4.0,
    "eq.bell1.gain_db": -3.0,
    "eq.bell2.gain_db": 5.0,
    "eq.bell2.q": 4.0,
    "eq.bell3.gain_db": 3.0,
    "eq.high.gain_db": -3.0,
}
# Where the song ends, the console cuts off what the equaliser answers; a plug-in goes on.
END = -128
PLACE = {"width": 1.6, "pan": -0.4, "fader_db": -3.5}


def started(settings: Settings, name: str | None, rate_hz: int = RATE_HZ) -> Plugin:
    """The plug-in of a track, or of the master, with its sliders as a project holds them."""
    if name is None:
        plugin = Plugin(plug_ins()[MASTER_NAME], rate_hz)
        values = slider_values(settings.master)
    else:
        plugin = Plugin(plug_ins()[STRIP_NAME], rate_hz)
        values = slider_values(settings.tracks[name], settings.rooms)
    plugin.set(dict(zip(plugin.sliders, map(float, values), strict=True)))
    return plugin


def run(plugin: Plugin, audio_CT: NDArray[np.float64], block_samples: int = 1 << 30) -> Tensor:
    """What comes out, the delay that the plug-in states taken away."""
    delay = int(plugin.values.get("pdc_delay", 0))
    padded_CT = np.pad(audio_CT, ((0, 0), (0, delay)))
    parts = [
        plugin.process(padded_CT[:, start : start + block_samples], start / RATE_HZ)
        for start in range(0, padded_CT.shape[1], block_samples)
    ]
    return torch.from_numpy(np.concatenate(parts, axis=1)[:, delay:])


def one_track(changes: Mapping[str, float], rooms: Rooms = "inserts") -> Settings:
    settings = Settings.neutral(["a"]).edit({f"a.{k}": value for k, value in changes.items()})
    return replace(settings, rooms=rooms)


@pytest.mark.parametrize("name", ["a", None])
def test_what_is_neutral_passes_to_the_bit(name: str | None) -> None:
    audio_CT = tracks(1, 3_000, 1)[0]
    plugin = started(Settings.neutral(["a"]), name)
    assert torch.equal(run(plugin, audio_CT.numpy()), audio_CT)


@pytest.mark.parametrize(
    ("changes", "rooms", "num_samples", "limit_db"),
    [
        # Everything at once, for half a second.
        (
            {
                "trim_db": 3.0,
                **EQUALISER,
                "drive.mix": 0.7,
                "drive.drive_db": 15.0,
                "comp.slope": 0.7,
                "comp.threshold_db": -30.0,
                "room.send_db": -9.0,
                "room.time_s": 0.5,
                **PLACE,
            },
            "inserts",
            RATE_HZ // 2,
            -180,
        ),
        ({"comp.slope": -0.4, "comp.knee_db": 0.0, **PLACE}, "inserts", 5_001, -200),
        # Low and high frequencies die away in other times.
        (
            {
                "room.send_db": -3.0,
                "room.time_s": 0.5,
                "room.low_ratio": 1.5,
                "room.high_ratio": 0.4,
                **PLACE,
            },
            "sends",
            6_001,
            -150,
        ),
        # Hard against the ends of the range.
        (
            {"drive.mix": 1.0, "drive.drive_db": 24.0, "trim_db": 30.0, "pan": 1.0, "width": 0.0},
            "inserts",
            2_000,
            -200,
        ),
    ],
)
def test_a_strip_computes_what_the_console_does(
    changes: Mapping[str, float], rooms: Rooms, num_samples: int, limit_db: float
) -> None:
    settings = one_track(changes, rooms)
    audio_NCT = tracks(2, num_samples, 1)
    expected_CT = render(audio_NCT, settings, RATE_HZ)[0]
    found_CT = run(started(settings, "a"), audio_NCT[0].numpy())
    assert error_db(found_CT[:, :END], expected_CT[:, :END]) < limit_db


def test_a_room_is_the_console_s_at_other_sample_rates() -> None:
    settings = one_track({"room.send_db": 0.0, "room.time_s": 0.5, "room.high_ratio": 0.5})
    audio_NCT = tracks(3, 4_500, 1)
    expected_CT = render(audio_NCT, settings, 48_000)[0]
    found_CT = run(started(settings, "a", 48_000), audio_NCT[0].numpy())
    assert error_db(found_CT - audio_NCT[0], expected_CT - audio_NCT[0]) < -120


def test_strips_and_master_give_the_mix_in_blocks_of_any_length() -> None:
    settings = Settings.neutral(NAMES).edit(EVERYTHING)
    audio_NCT = tracks(4, 3_500)
    sum_CT = torch.stack(
        [
            run(started(settings, name), audio_CT.numpy(), 701)
            for name, audio_CT in zip(NAMES, audio_NCT, strict=True)
        ]
    ).sum(dim=0)
    found_CT = run(started(settings, None), sum_CT.numpy(), 333)
    expected_CT = render(audio_NCT, settings, RATE_HZ).sum(dim=0)
    assert error_db(found_CT[:, :END], expected_CT[:, :END]) < -150


def held(chain: Line) -> Plugin:
    """The plug-in of a chain of a project, its sliders as they stand there."""
    (block,) = chain.all("JS")
    plugin = Plugin(plug_ins()[block.word(0)], RATE_HZ)
    (line,) = block.inner or []
    words = [line.name, *line.words]
    plugin.set(dict(zip(plugin.sliders, map(float, words[: len(plugin.sliders)]), strict=True)))
    return plugin


def test_tracks_that_are_sent_to_shared_rooms_give_the_mix(tmp_path: Path) -> None:
    """A project is mixed as REAPER does: strips, sends behind them, rooms alone, and the master."""
    settings = replace(Settings.neutral(NAMES).edit(EVERYTHING), rooms="sends")
    settings = settings.edit({"a.room.send_db": -6.0, "a.room.time_s": 0.8})
    settings = settings.edit({"a.room.high_ratio": 0.5, "a.pan": 0.7})
    audio_NCT = tracks(7, 3_500)
    stems = {name: tmp_path / f"{name}.wav" for name in NAMES}
    for path in stems.values():
        write_audio(path, torch.zeros(2, 100), RATE_HZ)
    write_reaper(Export(settings=settings, stems=stems, out_dir=tmp_path, title="x"))
    project = parse((tmp_path / "song.rpp").read_text(encoding="utf-8"), "song.rpp")
    chains = [each.all("FXCHAIN")[0] for each in project.all("TRACK")]
    out = [
        run(held(chain), audio_CT.numpy())
        for chain, audio_CT in zip(chains, audio_NCT, strict=False)
    ]
    rooms = project.all("TRACK")[len(out) :]
    assert [len(room.all("AUXRECV")) for room in rooms] == [1, 2]
    for room, chain in zip(rooms, chains[len(NAMES) :], strict=True):
        sent = [float(send.word(2)) * out[int(send.word(0))] for send in room.all("AUXRECV")]
        out.append(run(held(chain), torch.stack(sent).sum(dim=0).numpy()))
    found_CT = run(held(project.all("MASTERFXLIST")[0]), torch.stack(out).sum(dim=0).numpy())
    expected_CT = render(audio_NCT, settings, RATE_HZ).sum(dim=0)
    assert error_db(found_CT[:, :END], expected_CT[:, :END]) < -150


def test_delays_are_stated_and_whole_blocks_of_the_compressor() -> None:
    settings = Settings.neutral(["a"])
    assert started(settings, "a").values["pdc_delay"] == STRIP_DELAY_SAMPLES
    assert started(settings, None).values["pdc_delay"] == MASTER_DELAY_SAMPLES
    assert STRIP_DELAY_SAMPLES % 64 == MASTER_DELAY_SAMPLES % 64 == 0


def test_the_blocks_of_the_compressor_lie_as_in_the_song_wherever_it_is_started() -> None:
    settings = one_track({"comp.slope": 0.8, "comp.threshold_db": -40.0, "comp.attack_ms": 1.0})
    audio_NCT = tracks(5, 3_000, 1)
    audio_NCT[..., :1_000] = 0.0
    expected_CT = render(audio_NCT, settings, RATE_HZ)[0]
    padded_CT = np.pad(audio_NCT[0, :, 1_000:].numpy(), ((0, 0), (0, STRIP_DELAY_SAMPLES)))
    plugin = started(settings, "a")
    found_CT = plugin.process(padded_CT, 1_000 / RATE_HZ)[:, STRIP_DELAY_SAMPLES:]
    assert error_db(torch.from_numpy(found_CT), expected_CT[:, 1_000:]) < -200


def test_a_turned_fader_moves_without_a_click_to_where_it_belongs() -> None:
    plugin = started(Settings.neutral(["a"]), "a")
    plugin.process(np.ones((2, 500)))
    plugin.set({"fader_db": -6.0, "pan": 0.5})
    moved_CT = plugin.process(np.ones((2, 500)))
    assert np.abs(np.diff(moved_CT)).max() < 1.5 / 64
    assert moved_CT[:, -1].tolist() == pytest.approx([10**-0.3 / 2, 10**-0.3], abs=1e-15)


def test_turned_sliders_act_as_if_they_had_always_stood_there() -> None:
    changes = {**EQUALISER, "eq.highpass_hz": 900.0, "comp.slope": 0.5, "drive.mix": 0.5}
    changes |= {"comp.release_ms": 10.0, "comp.attack_ms": 2.0, "drive.drive_db": 6.0}
    settings = one_track(changes)
    audio_NCT = tracks(6, 6_000, 1)
    plugin = started(Settings.neutral(["a"]), "a")
    audio_CT = audio_NCT[0].numpy()
    plugin.process(audio_CT[:, :640])
    values = map(float, slider_values(settings.tracks["a"], settings.rooms))
    plugin.set(dict(zip(plugin.sliders, values, strict=True)))
    found_CT = plugin.process(audio_CT[:, 640:])
    expected_CT = render(audio_NCT, settings, RATE_HZ)[0]
    late_CT = torch.from_numpy(found_CT[:, -1_000:])
    assert error_db(late_CT, expected_CT[:, -1_000 - STRIP_DELAY_SAMPLES : END]) < -80


def test_a_room_that_is_turned_on_again_has_forgotten_what_it_heard() -> None:
    plugin = started(one_track({"room.send_db": 0.0, "room.high_ratio": 0.5}), "a")
    assert len(np.unique(plugin.process(np.ones((2, 2_800)))[0])) > 2
    plugin.set({"room_send_db": -60.0})
    plugin.process(np.zeros((2, 200)))
    plugin.set({"room_send_db": 0.0})
    assert not plugin.process(np.zeros((2, 2_800))).any()


@pytest.mark.parametrize(
    ("name", "fields", "more"),
    [
        (STRIP_NAME, TRACK_FIELDS, ["room_is_last"]),
        (ROOM_NAME, ROOM_FIELDS, []),
        (MASTER_NAME, MASTER_FIELDS, []),
    ],
)
def test_sliders_are_the_settings(name: str, fields: tuple[Field, ...], more: list[str]) -> None:
    plugin = Plugin(plug_ins()[name], RATE_HZ)
    assert list(plugin.sliders) == [each.name.replace(".", "_") for each in fields] + more
    neutral = Strip.neutral(fields)
    assert list(plugin.sliders.values())[: len(fields)] == list(neutral.values)


def test_the_text_has_no_place_left_to_fill() -> None:
    for text in plug_ins().values():
        assert "//{" not in text
        assert text.isascii()


def test_the_interpreter_follows_the_language() -> None:
    text = """desc:test
slider1:gain=2<0,4,0.1>Gain
@init
function twice(x) local(y) ( y = x; x *= 2; x + y - y; );
a = 2 - 3 + 4;
b = 7 % 4 + 2 ^ 3 * 2;
c = 0.000001 ? 1 : 2;
d = (1.000001 == 1) + (1.000001 === 1);
e = twice(gain) + gain;
i = 0; n = 3; loop(n, n = 10; i += 1;);
m = 16; m[1] = 5; 17[0] += 1; f = m[0.999999];
g = -1 & 255;
h = 1 < 2 && 3 > 4 || 1;
k = 1; while(k < 100) ( k *= 3; );
(k > 100) ? ( q = 1; r = 2; ) : q = 3;
"""
    values = Plugin(text + "@slider\n@block\n@sample\n", RATE_HZ).values
    found = {name: float(values[name]) for name in "abcdefghikmqr"}
    assert found == {
        **{"a": 3, "b": 19, "c": 2, "d": 1, "e": 6, "i": 3, "m": 16, "f": 6},
        **{"g": 255, "h": 1, "k": 243, "q": 1, "r": 2},
    }
