"""Taking a mix apart: levels at once, the rest by a search; what is locked stays."""

import pytest
import torch

from mixprint.console.alignment import Alignment
from mixprint.console.levels import begin, working_trim_db
from mixprint.console.pairs import LoadedPair
from mixprint.console.positions import Positions
from mixprint.console.recovery import EXCERPT_S, PREROLL_S, _distance, busiest_excerpt, recover
from mixprint.console.rendering import render
from mixprint.console.settings import Settings
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.errors import ConfigError
from tests.console.test_rendering import EVERYTHING, RATE_HZ, tracks

NAMES = ("a", "b")
TRUTH = {
    "a.fader_db": -6.0,
    "a.pan": -0.4,
    "a.eq.high.gain_db": 5.0,
    "b.fader_db": 3.0,
    "b.width": 0.5,
    "b.comp.slope": 0.6,
    "b.comp.threshold_db": -30.0,
}


def heard_db(settings: Settings, name: str) -> float:
    return settings[f"{name}.trim_db"] + settings[f"{name}.fader_db"]


def test_the_working_level_is_that_of_what_sounds() -> None:
    dry_NCT = torch.zeros(2, 2, 5 * RATE_HZ)
    dry_NCT[0, :, : 2 * RATE_HZ] = 0.01  # -40 dBFS, and then nothing
    assert working_trim_db(dry_NCT, RATE_HZ) == pytest.approx([20.0, 0.0], abs=0.1)


def test_of_a_long_song_the_seconds_are_compared_in_which_all_tracks_sound() -> None:
    rate_hz, first, length_s = 100, 11, 25
    second_T = torch.arange(length_s * rate_hz) // rate_hz
    sounds_T = (second_T >= first) & (second_T < first + EXCERPT_S)
    tracks_NCT = torch.stack([torch.ones(2, len(second_T)), sounds_T.expand(2, -1).float()])
    mix_CT = second_T.expand(2, -1).float()
    loaded = LoadedPair(tracks_NCT, mix_CT, rate_hz, Alignment(0.0, 1, 0.0, 1.0), tracks_NCT)
    excerpt, preroll_s = busiest_excerpt(loaded)
    assert preroll_s == PREROLL_S
    assert excerpt.mix_CT[0].unique().tolist() == list(range(first - PREROLL_S, first + EXCERPT_S))
    assert excerpt.mixed_NCT is not None
    assert excerpt.tracks_NCT.equal(excerpt.mixed_NCT)
    heard_T = excerpt.tracks_NCT[1, 0]
    assert heard_T[: PREROLL_S * rate_hz].eq(0).all()
    assert heard_T[PREROLL_S * rate_hz :].eq(1).all()
    short = loaded.cut(0, (EXCERPT_S + PREROLL_S) * rate_hz)
    assert busiest_excerpt(short)[0] is short


def test_levels_and_pans_are_found_at_once() -> None:
    dry_NCT = tracks(1, 4 * RATE_HZ, 2).float()
    truth = Settings.neutral(NAMES).edit({"a.fader_db": -9.0, "a.pan": 0.5, "b.fader_db": 4.0})
    mix_CT = render(dry_NCT, truth, RATE_HZ).sum(dim=0).float()
    found = begin(dry_NCT, mix_CT, NAMES, RATE_HZ)
    assert found["a.pan"] == pytest.approx(0.5, abs=0.05)
    assert found["b.pan"] == pytest.approx(0.0, abs=0.05)
    # Half of a track that is panned by a half is lost on one side.
    assert heard_db(found, "a") == pytest.approx(-9.0, abs=2.5)
    assert heard_db(found, "b") == pytest.approx(4.0, abs=1.0)


def test_cuts_are_found_where_they_are_heard() -> None:
    dry_NCT = tracks(3, 2 * RATE_HZ, 2).float()
    cuts = {"a.eq.highpass_hz": 200.0, "b.eq.lowpass_hz": 5_500.0}
    truth = Settings.neutral(NAMES).edit({**cuts, "a.fader_db": 3.0})
    found = begin(dry_NCT, render(dry_NCT, truth, RATE_HZ).sum(dim=0).float(), NAMES, RATE_HZ)
    for path, freq_hz in cuts.items():
        assert found[path] == pytest.approx(freq_hz, rel=0.5)
    assert found["a.eq.lowpass_hz"] == 20_000.0
    plain = begin(dry_NCT, dry_NCT.sum(dim=0), NAMES, RATE_HZ)
    for name in NAMES:
        assert plain.tracks[name].is_neutral("eq.highpass_hz")
        assert plain.tracks[name].is_neutral("eq.lowpass_hz")


def test_a_search_comes_near_and_leaves_alone_what_is_locked() -> None:
    dry_NCT = tracks(2, RATE_HZ // 2, 2).float()
    truth = Settings.neutral(NAMES).edit(TRUTH)
    mixed_NCT = render(dry_NCT, truth, RATE_HZ)
    mix_CT = mixed_NCT.sum(dim=0).float()
    locked = ["*.room", "master", "a.comp"]
    found = recover(dry_NCT, mix_CT, RATE_HZ, NAMES, num_steps=45, locked=locked)
    started = begin(dry_NCT, mix_CT, NAMES, RATE_HZ)
    start_CT = render(dry_NCT, started, RATE_HZ).sum(dim=0).float()
    start = float(multi_resolution_stft(start_CT, mix_CT))
    assert found.distance < 0.6 * start
    neutral = Settings.neutral(NAMES)
    assert found.settings.lock(neutral, locked) == found.settings
    assert found.settings["a.pan"] == pytest.approx(-0.4, abs=0.03)
    assert found.settings["b.width"] == pytest.approx(0.5, abs=0.05)
    for found_CT, mixed_CT in zip(render(dry_NCT, found.settings, RATE_HZ), mixed_NCT, strict=True):
        levels = [10 * torch.log10(x_CT.square().mean()) for x_CT in (found_CT, mixed_CT)]
        assert float(levels[0] - levels[1]) == pytest.approx(0.0, abs=1.0)


def test_tracks_that_are_known_in_the_mix_are_told_apart() -> None:
    """Of two takes that sound alike the sum says nothing."""
    dry_NCT = tracks(5, 13_000, 1).float().repeat(2, 1, 1)
    mixed_NCT = torch.tensor([0.5, 1.0])[:, None, None] * dry_NCT
    mix_CT = mixed_NCT.sum(dim=0)
    locked = ["*.room", "*.comp", "*.eq", "*.width", "*.pan", "master"]
    apart = []
    for known_NCT in (None, mixed_NCT):
        found = recover(
            *(dry_NCT, mix_CT, RATE_HZ, NAMES),
            mixed_NCT=known_NCT,
            num_steps=15,
            start=Settings.neutral(NAMES),
            locked=locked,
        )
        assert found.distance < 0.2
        apart.append(found.settings["b.fader_db"] - found.settings["a.fader_db"])
    assert apart == pytest.approx([0.0, 6.0], abs=1.5)


def test_a_long_song_is_compared_in_parts() -> None:
    a_CT, b_CT = (tracks(seed, 45_000, 1)[0].float() for seed in (1, 2))
    halves = [
        multi_resolution_stft(a_CT[:, s], b_CT[:, s]) for s in (slice(22_500), slice(22_500, None))
    ]
    assert _distance(a_CT, b_CT, 1_000) == pytest.approx(float(sum(halves)) / 2, rel=1e-6)
    assert _distance(a_CT, b_CT, RATE_HZ) == pytest.approx(float(multi_resolution_stft(a_CT, b_CT)))


def test_lengths_and_names_must_fit() -> None:
    with pytest.raises(ConfigError, match="expected 2 tracks as long as the mix, 50 samples"):
        recover(torch.zeros(2, 2, 60), torch.zeros(2, 50), RATE_HZ, NAMES)


def test_a_search_begins_at_settings_in_any_order() -> None:
    dry_NCT = tracks(2, RATE_HZ, 2).float()
    start = Settings.neutral(["b", "a"]).edit({"a.fader_db": -12.0, "b.pan": 1.0})
    found = recover(dry_NCT, dry_NCT.sum(dim=0), RATE_HZ, NAMES, num_steps=0, start=start)
    assert list(found.settings.tracks) == ["a", "b"]
    for name in ("a.fader_db", "b.pan", "a.pan", "b.fader_db"):
        assert found.settings[name] == pytest.approx(start[name], abs=1e-9)
    other = Settings.neutral(["a", "c"])
    with pytest.raises(ConfigError, match="expected those of the tracks a, b, found those of a, c"):
        recover(dry_NCT, dry_NCT.sum(dim=0), RATE_HZ, NAMES, num_steps=0, start=other)


def test_positions_give_settings_back() -> None:
    settings = Settings.neutral(("a", "b", "c")).edit(EVERYTHING)
    positions = Positions(settings, lambda _, each: each.is_fitted)
    for name, strip in positions.settings().strips().items():
        assert strip.values == pytest.approx(settings.strips()[name].values, rel=1e-9)
    still = Positions(settings, lambda *_: False)
    assert still.settings() == settings
    assert not any(v.requires_grad for v in still.values(RATE_HZ).track_N.values())


def test_a_position_finds_back_from_beyond_its_range() -> None:
    settings = Settings.neutral(["a"]).edit({"a.fader_db": 24.0})
    positions = Positions(settings, lambda _, each: each.name == "fader_db")
    optimiser = torch.optim.SGD(positions.parameters(), lr=0.01)
    for sign in (-1.0, 1.0, 1.0):
        optimiser.zero_grad()
        (sign * positions.values(RATE_HZ).track_N["fader_db"].sum()).backward()
        optimiser.step()
        assert -60.0 <= positions.settings()["a.fader_db"] <= 24.0
    assert positions.settings()["a.fader_db"] < 24.0


def test_a_short_song_of_a_low_rate_is_taken_apart() -> None:
    dry_NCT = tracks(4, 9_000, 2).float()
    found = recover(dry_NCT, dry_NCT.sum(dim=0), 8_000, NAMES, num_steps=0)
    assert found.settings.sample_rate_hz == 8_000
    assert found.distance < 0.2
    with pytest.raises(ConfigError, match="expected at least 8192 samples to compare, found 8000"):
        recover(dry_NCT[..., :8_000], dry_NCT[..., :8_000].sum(dim=0), 8_000, NAMES)
