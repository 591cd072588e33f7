"""A changed style is described as what is mixed anew in it."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from mixprint.console.levels import working_trim_db
from mixprint.console.settings import Settings
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.examples import Example, Parts
from mixprint.controller.inputs import describe_reference
from mixprint.controller.measured import MeasuredExample, measure_batch
from mixprint.controller.mixes import Mixing, mixed, stem_sums
from mixprint.controller.style_noise import StyleNoise, with_style_noise
from mixprint.controller.targets import MASTER, TRACK, Targets
from mixprint.features.descriptors import NUM_MELS
from mixprint.features.schema import STEM_FEATURES
from mixprint.stems import SAMPLE_RATE_HZ

ROLES = ("vocals", "bass", "kick", "snare", "guitar", "guitar")
NAMES = ("vocals", "bass", "kick", "snare", "guitar 1", "guitar 2")
NUM_SAMPLES = 3 * SAMPLE_RATE_HZ
NOISE = StyleNoise(level_db=2.0, tone_db=3.0, tone_octaves=0.25, image=0.3)
NO_NOISE = StyleNoise(level_db=0.0, tone_db=0.0, tone_octaves=0.0, image=0.0)
LINEAR = {
    "vocals.eq.highpass_hz": 90.0,
    "vocals.eq.bell2.gain_db": 5.0,
    "vocals.eq.bell2.freq_hz": 900.0,
    "vocals.width": 1.4,
    "vocals.room.send_db": -15.0,
    "bass.eq.low.gain_db": -6.0,
    "kick.eq.bell1.gain_db": 7.0,
    "kick.pan": 0.2,
    "snare.eq.high.gain_db": 6.0,
    "guitar 1.eq.bell3.gain_db": -5.0,
    "guitar 1.pan": 0.6,
    "guitar 2.eq.bell3.gain_db": -5.0,
    "guitar 2.pan": -0.6,
    "master.eq.high.gain_db": 3.0,
    "master.eq.low.gain_db": -2.0,
}
COMPRESSED = LINEAR | {
    "vocals.comp.slope": 0.6,
    "vocals.comp.threshold_db": -28.0,
    "snare.drive.mix": 0.6,
    "snare.drive.drive_db": 9.0,
    "master.comp.slope": 0.5,
    "master.comp.threshold_db": -20.0,
}
# Fields of a descriptor.
MEANS, LOUD = slice(0, NUM_MELS), slice(3 * NUM_MELS, 4 * NUM_MELS)
STEREO = slice(4 * NUM_MELS, 4 * NUM_MELS + 40)
LEVELS = [
    place - len(STEM_FEATURES)
    for place, name in enumerate(STEM_FEATURES)
    if name.startswith(("rms_", "loudness_", "band_"))
]
IMAGE = [
    place - len(STEM_FEATURES)
    for place, name in enumerate(STEM_FEATURES)
    if name in ("ild_db", "side_mid_ratio_db")
]


@cache
def dry() -> Tensor:
    """Return bursts of noise, each track with a rhythm and a slope of its own; two are stereo."""
    generator = torch.Generator().manual_seed(0)
    time_T = torch.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ
    tracks = []
    for place in range(len(ROLES)):
        white_CT = torch.randn(2, NUM_SAMPLES, generator=generator)
        spectrum_CF = torch.fft.rfft(white_CT)
        hz_F = torch.linspace(20, SAMPLE_RATE_HZ / 2, spectrum_CF.shape[-1])
        coloured_CT = torch.fft.irfft(spectrum_CF * hz_F ** (-0.3 - 0.15 * place), n=NUM_SAMPLES)
        envelope_T = torch.exp(-(2.0 + place) * (time_T % (0.25 + 0.11 * place)))
        audio_CT = 0.1 * coloured_CT / coloured_CT.std() * envelope_T
        tracks.append(audio_CT if place in (0, 4) else audio_CT[:1].expand(2, -1))
    return torch.stack(tracks)


def settings(changes: dict[str, float]) -> Settings:
    trims = dict(zip(NAMES, working_trim_db(dry(), SAMPLE_RATE_HZ), strict=True))
    trimmed = {f"{name}.trim_db": trim_db for name, trim_db in trims.items()}
    return Settings.neutral(NAMES).edit(trimmed | changes)


def mix(style: Settings) -> Tensor:
    (mixed_NCT,) = mixed([Mixing(dry(), style)], torch.device("cpu"))
    return mixed_NCT


@cache
def _measured(names: tuple[str, ...], values: tuple[float, ...]) -> MeasuredExample:
    """Measure an example whose tracks are those of its reference."""
    style = settings(dict(zip(names, values, strict=True)))
    mixed_NCT = mix(style)
    stems_SCT = stem_sums(mixed_NCT, ROLES)
    example = Example(
        tracks_NCT=dry(),
        names=NAMES,
        roles=ROLES,
        settings=style,
        truth_NCT=None,
        reference_CT=stems_SCT.sum(dim=0),
        stems_SCT=stems_SCT,
        stems="true",
        parts=Parts(mixed_NCT, ROLES, style),
    )
    (item,) = measure_batch([example], None)
    return item


def measured(changes: dict[str, float]) -> MeasuredExample:
    return _measured(tuple(changes), tuple(changes.values()))


def mixed_anew(item: MeasuredExample) -> Tensor:
    """Describe stems, mid and side of what the answer makes of the tracks: described_QD."""
    targets = Targets(item.track_NK, item.track_gate_NG, item.master_K, item.master_gate_G)
    mixed_NCT = mix(targets.settings(NAMES, item.trim_N.tolist(), SAMPLE_RATE_HZ))
    stems_SCT = stem_sums(mixed_NCT, ROLES)
    return torch.cat(
        [
            describe_audio(stems_SCT, SAMPLE_RATE_HZ),
            describe_reference(stems_SCT.sum(dim=0), SAMPLE_RATE_HZ),
        ]
    )


def described(item: MeasuredExample) -> Tensor:
    return torch.cat([item.stem_SD, item.mid_side_2D])


def rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())


# Measured: 0.35 dB at most of changes of 1.6 to 3.6 dB, and 0.47 dB behind compressors and drives.
@pytest.mark.parametrize(("style", "tolerance_db"), [(LINEAR, 0.4), (COMPRESSED, 0.6)])
def test_what_is_described_is_what_is_mixed_anew(
    style: dict[str, float], tolerance_db: float
) -> None:
    item = measured(style)
    for seed in (1, 2):
        (other,) = with_style_noise([item], [seed], NOISE)
        before_QD, found_QD, expected_QD = described(item), described(other), mixed_anew(other)
        for places in (MEANS, LOUD, STEREO, LEVELS, IMAGE):
            assert rms((found_QD - expected_QD)[:, places]) < tolerance_db
            assert rms((before_QD - expected_QD)[:, places]) > 2 * tolerance_db


def test_without_noise_an_example_stays_but_for_its_embedding() -> None:
    item = replace(measured(COMPRESSED), embedding_E=torch.ones(4))
    masked = replace(item, has_true_stems=torch.tensor(False))
    same, other = with_style_noise([item, masked], [1, 2], NO_NOISE)
    assert len(same.embedding_E) == len(other.embedding_E) == 0
    assert len(other.stem_SD) == 0
    torch.testing.assert_close(other.mid_side_2D, item.mid_side_2D, atol=1e-3, rtol=0)
    for name in ("stem_SD", "mid_side_2D", "track_NK", "track_weight_NK", "master_K"):
        torch.testing.assert_close(getattr(same, name), getattr(item, name), atol=1e-3, rtol=0)
    assert with_style_noise([], [], NO_NOISE) == []


def test_only_what_is_in_use_changes_and_alike_for_a_role() -> None:
    item = measured(COMPRESSED)
    (other,) = with_style_noise([item], [1], NOISE)
    moved_NK = other.track_NK - item.track_NK
    moved = {
        f"{name}.{each.name}"
        for name, row_K in zip(NAMES, moved_NK, strict=True)
        for each, change in zip(TRACK.fields, row_K.tolist(), strict=True)
        if change
    }
    bands = {name.rpartition(".")[0] for name in LINEAR if "gain_db" in name}
    expected = {f"{name}.{what}" for name in NAMES for what in ("fader_db", "width")}
    expected |= {name for name in LINEAR if name.endswith((".pan", ".highpass_hz"))}
    expected |= {
        f"{band}.{each.name.rpartition('.')[2]}"
        for band in bands
        for each in TRACK.fields
        if each.name.startswith(band.partition(".")[2] + ".")
    }
    expected |= {"vocals.comp.threshold_db", "snare.drive.drive_db"}
    assert moved == {name for name in expected if not name.startswith("master.")}
    # Two guitars stay opposite each other.
    places = [place for place, each in enumerate(TRACK.fields) if each.name != "pan"]
    torch.testing.assert_close(moved_NK[4, places], moved_NK[5, places])
    pan = next(place for place, each in enumerate(TRACK.fields) if each.name == "pan")
    torch.testing.assert_close(other.track_NK[4, pan] + other.track_NK[5, pan], torch.tensor(1.0))
    changed = {
        each.name
        for each, change in zip(
            MASTER.fields, (other.master_K - item.master_K).tolist(), strict=True
        )
        if change
    }
    shelves = {f"eq.{shelf}.{what}" for shelf in ("low", "high") for what in ("gain_db", "freq_hz")}
    assert changed == shelves | {"comp.threshold_db"}
