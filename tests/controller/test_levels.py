"""Levels that are estimated from descriptors, against those of what the console makes."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mixprint.console.mixing import Console, Values
from mixprint.console.settings import Settings
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.levels import Levels, estimated_levels, level_distance, true_levels
from mixprint.stems import SAMPLE_RATE_HZ

NAMES = ("kick", "voice")
ROOM_S = 2.0


def _tracks() -> Tensor:
    """Four seconds of hits, and of swelling noise that is wider and further to the right."""
    generator = torch.Generator().manual_seed(1)
    time_T = torch.arange(4 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    noise_NCT = torch.randn(2, 2, len(time_T), generator=generator)
    hits_T = torch.exp(-12 * (time_T % 0.5))
    swell_T = 0.6 + 0.4 * torch.sin(2 * torch.pi * 1.5 * time_T)
    mono_CT = noise_NCT[0, :1].expand(2, -1)
    wide_CT = noise_NCT[1] * torch.tensor([[0.6], [1.0]]) + 0.8 * noise_NCT[1].mean(dim=0)
    return 0.1 * torch.stack([hits_T * mono_CT, swell_T * wide_CT])


TRACKS_NCT = _tracks()
NEARLY_MONO_NCT = TRACKS_NCT.clone()
NEARLY_MONO_NCT[0, 1] *= 0.95  # the side is 32 dB below mid
SONG_N = torch.zeros(len(NAMES), dtype=torch.long)


def _values(changes: Mapping[str, float]) -> Values:
    return Values.of(Settings.neutral(NAMES).edit(changes), SAMPLE_RATE_HZ)


def _levels(changes: Mapping[str, float]) -> tuple[Levels, Levels]:
    """Return estimated and true levels of the tracks under settings."""
    values = _values(changes)
    made_NCT = Console(TRACKS_NCT, ROOM_S)(values)
    estimated = estimated_levels(describe_audio(TRACKS_NCT, SAMPLE_RATE_HZ), values, SONG_N, 1)
    return estimated, true_levels(describe_audio(made_NCT, SAMPLE_RATE_HZ))


@pytest.mark.parametrize(
    ("changes", "tolerance_db"),
    [
        ({}, 0.1),
        ({"kick.fader_db": -7, "voice.fader_db": 3, "master.output_db": 2}, 0.1),
        ({"voice.pan": -0.4, "voice.width": 0.4, "kick.pan": 0.3}, 0.3),
        ({"kick.eq.low.gain_db": 8, "voice.eq.high.gain_db": -9, "voice.eq.bell2.gain_db": 6}, 0.5),
        ({"voice.eq.highpass_hz": 300, "master.eq.high.gain_db": 4}, 0.5),
        ({"voice.room.send_db": -8, "voice.room.time_s": 1.2}, 0.8),
    ],
)
def test_linear_effects_are_estimated_as_the_console_makes_them(
    changes: dict[str, float], tolerance_db: float
) -> None:
    estimated, true = _levels(changes)
    is_heard_N2K = true.power_N2K > 1e-4 * true.power_N2K.amax(dim=(1, 2), keepdim=True)
    apart_db = 10 * torch.log10(estimated.power_N2K / true.power_N2K)[is_heard_N2K]
    assert apart_db.abs().mean() < tolerance_db
    assert (estimated.balance_db_N - true.balance_db_N).abs().max() < tolerance_db


@pytest.mark.parametrize("strip", ["kick", "master"])
def test_compressors_are_estimated_to_a_part_of_what_they_do(strip: str) -> None:
    settings = {"comp.slope": 0.75, "comp.threshold_db": -35, "comp.attack_ms": 5.0}
    plain, _ = _levels({})
    estimated, true = _levels({f"{strip}.{name}": value for name, value in settings.items()})
    kick_before, kick_found, kick_true = (
        float(10 * torch.log10(x.power_N2K[0].sum())) for x in (plain, estimated, true)
    )
    assert kick_before - kick_true > 5
    assert kick_found == pytest.approx(kick_true, abs=0.4 * (kick_before - kick_true))


def test_distance_is_zero_at_the_truth_and_leads_there() -> None:
    estimated, _ = _levels({"kick.fader_db": -9.0})
    assert float(level_distance(estimated, estimated, SONG_N, 1)) == 0.0
    values = _values({})
    fader_N = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    looked_for = Values(
        {**values.track_N, "fader_db": fader_N}, values.master_1, values.rooms, SAMPLE_RATE_HZ
    )
    descriptor_ND = describe_audio(TRACKS_NCT, SAMPLE_RATE_HZ)
    distance_B = level_distance(
        estimated_levels(descriptor_ND, looked_for, SONG_N, 1), estimated, SONG_N, 1
    )
    distance_B.sum().backward()
    assert fader_N.grad is not None
    assert fader_N.grad[0] > 0
    assert distance_B > 1.0


def test_a_side_that_nobody_hears_counts_little() -> None:
    """Both are 12 dB of side: of a kick that is nearly mono, and of a wide voice."""
    descriptor_ND = describe_audio(NEARLY_MONO_NCT, SAMPLE_RATE_HZ)
    true = estimated_levels(descriptor_ND, _values({}), SONG_N, 1)
    kick, voice = (
        level_distance(
            estimated_levels(descriptor_ND, _values({f"{name}.width": 0.25}), SONG_N, 1),
            true,
            SONG_N,
            1,
        )
        for name in NAMES
    )
    assert kick < 0.2 * voice


def test_songs_of_a_batch_are_estimated_as_alone() -> None:
    descriptor_ND = describe_audio(TRACKS_NCT, SAMPLE_RATE_HZ)
    changes = {"master.comp.slope": 0.5, "master.comp.threshold_db": -40.0, "voice.pan": 0.5}
    several = [_values({}), _values(changes)]
    song_N = torch.tensor([0, 0, 1, 1])
    together = estimated_levels(descriptor_ND.repeat(2, 1), Values.joined(several), song_N, 2)
    for song, values in enumerate(several):
        alone = estimated_levels(descriptor_ND, values, SONG_N, 1)
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[song_N == song], other)
