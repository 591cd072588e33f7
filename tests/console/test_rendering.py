"""Mixing and rendering: exact, neutral to the bit, the same in blocks, and the generator's."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.console.forward import mix_once
from mixprint.console.mixing import Console, Values
from mixprint.console.rendering import render, render_blocks
from mixprint.console.settings import Settings
from mixprint.console.truth import from_truth, peak_gain_db
from mixprint.errors import DataError
from mixprint.stems import STEMS
from mixprint.synthesis import mixing
from mixprint.synthesis.exact import Rng

RATE_HZ = 44_100
NAMES = ("a", "b", "c")
EVERYTHING = {
    "a.trim_db": 3.0,
    "a.eq.highpass_hz": 60.0,
    "a.eq.low.gain_db": -4.0,
    "a.eq.bell1.gain_db": 5.0,
    "a.comp.slope": 0.6,
    "a.comp.threshold_db": -30.0,
    "a.drive.mix": 0.5,
    "a.drive.drive_db": 12.0,
    "b.eq.lowpass_hz": 9_000.0,
    "b.eq.high.gain_db": 4.0,
    "b.comp.slope": -0.4,
    "b.room.send_db": -9.0,
    "b.room.time_s": 0.8,
    "b.room.high_ratio": 0.5,
    "b.width": 1.6,
    "b.pan": -0.5,
    "c.fader_db": -4.0,
    "c.room.send_db": -20.0,
    "master.eq.low.gain_db": 2.0,
    "master.eq.bell2.gain_db": -1.5,
    "master.comp.slope": 0.5,
    "master.comp.threshold_db": -18.0,
    "master.output_db": -2.0,
}


def tracks(seed: int, num_samples: int = 2 * RATE_HZ, num_tracks: int = 3) -> Tensor:
    """Noise in bursts, another one in each channel."""
    generator = torch.Generator().manual_seed(seed)
    noise_NCT = torch.randn(num_tracks, 2, num_samples, generator=generator, dtype=torch.float64)
    time_T = torch.arange(num_samples) / RATE_HZ
    speed_N11 = 1.0 + torch.arange(num_tracks)[:, None, None]
    return 0.1 * noise_NCT * (torch.sin(2 * math.pi * speed_N11 * time_T) > 0.0)


def error_db(found: Tensor, expected: Tensor) -> float:
    error = (found.double() - expected.double()).square().mean() / expected.double().square().mean()
    return 10 * math.log10(float(error) + 1e-30)


def test_neutral_settings_give_the_input_to_the_bit() -> None:
    dry_NCT = tracks(1).float()
    assert torch.equal(render(dry_NCT, Settings.neutral(NAMES), RATE_HZ).float(), dry_NCT)


def test_a_track_that_is_left_alone_stays_to_the_bit() -> None:
    dry_NCT = tracks(2)
    settings = Settings.neutral(NAMES).edit({k: v for k, v in EVERYTHING.items() if k[0] == "a"})
    mixed_NCT = render(dry_NCT, settings, RATE_HZ)
    assert torch.equal(mixed_NCT[1:], dry_NCT[1:])
    assert error_db(mixed_NCT[0], dry_NCT[0]) > -20


@pytest.mark.parametrize("rooms", ["inserts", "sends"])
def test_what_is_fitted_is_what_is_rendered(rooms: Any) -> None:
    dry_NCT = tracks(3)
    neutral = Settings.neutral(NAMES)
    settings = Settings(neutral.tracks, neutral.master, RATE_HZ, rooms).edit(EVERYTHING)
    fitted_NCT = Console(dry_NCT.float())(Values.of(settings, RATE_HZ))
    rendered_NCT = render(dry_NCT, settings, RATE_HZ)
    for fitted_CT, rendered_CT in zip(fitted_NCT, rendered_NCT, strict=True):
        assert error_db(fitted_CT, rendered_CT) < -80


def test_rooms_behind_the_fader_are_others_than_before_it() -> None:
    dry_NCT = tracks(4)
    inserts = Settings.neutral(NAMES).edit(EVERYTHING)
    sends = Settings(inserts.tracks, inserts.master, RATE_HZ, "sends")
    mixed = [render(dry_NCT, settings, RATE_HZ) for settings in (inserts, sends)]
    assert error_db(mixed[0][1], mixed[1][1]) > -40


def test_blocks_give_what_one_pass_gives() -> None:
    dry_NCT = tracks(5)
    settings = Settings.neutral(NAMES).edit(EVERYTHING)
    whole_NCT = render(dry_NCT, settings, RATE_HZ)
    sizes = [1, 63, 10_000, 3, 30_000]
    blocks = dry_NCT.split([*sizes, dry_NCT.shape[-1] - sum(sizes)], dim=-1)
    found_NCT = torch.cat(list(render_blocks(blocks, settings, RATE_HZ)), dim=-1)
    assert found_NCT.shape == dry_NCT.shape
    torch.testing.assert_close(found_NCT, whole_NCT, rtol=0, atol=1e-9)


def test_the_order_of_tracks_means_nothing() -> None:
    dry_NCT = tracks(6)
    settings = Settings.neutral(NAMES).edit(EVERYTHING)
    turned = Settings(
        {name: settings.tracks[name] for name in reversed(NAMES)}, settings.master, RATE_HZ
    )
    torch.testing.assert_close(
        render(dry_NCT.flip(0), turned, RATE_HZ).flip(0),
        render(dry_NCT, settings, RATE_HZ),
        rtol=0,
        atol=1e-12,
    )


def test_several_mixes_at_once_are_those_made_one_by_one() -> None:
    first, second = Settings.neutral(NAMES).edit(EVERYTHING), Settings.neutral(("d", "e"))
    second = second.edit(
        {"d.room.send_db": -9.0, "master.output_db": -3.0, "master.comp.slope": 0.2}
    )
    audio_NCT = tracks(5, RATE_HZ // 4, num_tracks=5)
    alone = [
        Console(part_NCT, 0.5)(Values.of(settings, RATE_HZ))
        for part_NCT, settings in ((audio_NCT[:3], first), (audio_NCT[3:], second))
    ]
    joined = Values.joined([Values.of(each, RATE_HZ) for each in (first, second)])
    together_NCT = Console(audio_NCT, 0.5, torch.tensor([0, 0, 0, 1, 1]))(joined)
    assert error_db(together_NCT, torch.cat(alone)) < -120


@pytest.mark.parametrize("rooms", ["inserts", "sends"])
def test_one_pass_gives_what_the_console_gives(rooms: Any) -> None:
    settings = replace(Settings.neutral(NAMES).edit(EVERYTHING), rooms=rooms)
    audio_NCT = tracks(6, RATE_HZ // 2).float()
    audio_NCT[0, 1] = audio_NCT[0, 0]  # the one with drive
    values = Values.of(settings, RATE_HZ)
    expected_NCT = Console(audio_NCT, 0.5)(values)
    assert error_db(mix_once(audio_NCT, values, 0.5), expected_NCT) < -100


def test_mono_tracks_are_heard_in_the_middle() -> None:
    dry_NCT = tracks(7)[:, :1]
    mixed_NCT = render(dry_NCT, Settings.neutral(NAMES), RATE_HZ)
    assert torch.equal(mixed_NCT, dry_NCT.expand(-1, 2, -1))


@pytest.mark.parametrize("style", ["arena", "intimate", "ambient", "free"])
def test_a_generated_mix_is_rendered_from_its_own_settings(style: str) -> None:
    rng = Rng(1, style)
    truth = (
        mixing.varied(mixing.free_style(rng), rng)
        if style == "free"
        else mixing.draw_settings(style, rng)
    )
    dry_NCT = tracks(8, 3 * RATE_HZ, 4)
    mixed = mixing.mix(dict(zip(STEMS, dry_NCT.numpy(), strict=True)), truth)
    expected_NCT = torch.from_numpy(np.stack([mixed[stem] for stem in STEMS]))
    settings = from_truth({"mix": truth.to_values()}, "settings.json")
    assert list(settings.tracks) == list(STEMS)
    found_NCT = render(dry_NCT, settings, RATE_HZ)
    found_NCT = found_NCT * 10 ** (peak_gain_db(found_NCT) / 20)
    assert error_db(found_NCT.sum(dim=0), expected_NCT.sum(dim=0)) < -60
    for found_CT, expected_CT in zip(found_NCT, expected_NCT, strict=True):
        assert error_db(found_CT, expected_CT) < -60


def test_what_is_no_truth_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"x\.json: expected the settings of a generated mix"):
        from_truth({"mix": []}, "x.json")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"a.pan": 1.0, "b.pan": -1.0},
        {"a.comp.knee_db": 0.0, "a.comp.threshold_db": -60.0, "b.comp.threshold_db": 0.0},
        {"a.room.send_db": -60.0, "b.room.send_db": 6.0},
        {"a.fader_db": -60.0, "b.width": 0.0, "c.drive.mix": 1.0},
    ],
)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gradients_are_finite(changes: dict[str, float], level: float) -> None:
    settings = Settings.neutral(NAMES).edit({**EVERYTHING, **changes})
    values = Values.of(settings, RATE_HZ)
    leaves = [v.requires_grad_() for v in (*values.track_N.values(), *values.master_1.values())]
    dry_NCT = level * tracks(9, 4_000).float()
    Console(dry_NCT, room_s=0.1)(values).square().sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
