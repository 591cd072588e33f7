import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixprint.console.settings import Settings
from mixprint.errors import AudioError, ConfigError, TrainingError
from mixprint.features import FEATURE_NAMES, Standardisation, extract, feature_distance
from mixprint.stems import STEMS
from mixprint.transfer.fit import fit_style
from mixprint.transfer.methods import tcn_fit
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import TransferResult
from mixprint.transfer.settings import Hyperparameters
from mixprint.transfer.style import Style
from tests.transfer import trials

RATE_HZ = 44_100
Make = Callable[..., Tensor]


class LevelEncoder:
    """Stands for a trained encoder: the direction tells how loud the stems are."""

    fingerprint = "level"

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        level_BS = stems_BSCT.square().mean((-2, -1)).clamp_min(1e-8).log()
        return torch.nn.functional.normalize(level_BS, dim=-1)


class NotFiniteEncoder(LevelEncoder):
    """Gives no numbers from some call on, up to another one."""

    def __init__(self, first: int, last: float = math.inf) -> None:
        self._calls, self._first, self._last = 0, first, last

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        self._calls += 1
        value = super().embed(stems_BSCT, sample_rate_hz)
        return value * float("nan") if self._first <= self._calls <= self._last else value


def settings(**more: object) -> Hyperparameters:
    return trials.settings(**({"aim": "target", "num_steps": 8, "method": "tcn"} | more))


def transfer(
    a: Tensor,
    b: Tensor,
    standardisation: Standardisation,
    encoder: "LevelEncoder | None" = None,
    **more: object,
) -> TransferResult:
    wanted = settings(**more)
    style = Style.of("target", [b], RATE_HZ, encoder=encoder)  # type: ignore[arg-type]
    return fit_style([a], style, RATE_HZ, wanted, standardisation=standardisation, encoder=encoder)  # type: ignore[arg-type]


def test_features_come_nearer_and_agree_with_the_library(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = make_stems(), make_stems(seed=1, gain=0.4)
    result = transfer(source, target, standardisation, num_steps=15, method="console")

    def distance(stems_SCT: Tensor) -> float:
        both = (extract(x.unsqueeze(0), RATE_HZ) for x in (stems_SCT, target))
        return float(feature_distance(*both, standardisation))

    assert result.initial.feature_distance == pytest.approx(distance(source), abs=1e-4)
    assert result.final.feature_distance == pytest.approx(distance(result.stems_SCT), abs=1e-4)
    assert result.final.feature_distance < 0.5 * result.initial.feature_distance
    distances = [i.feature_distance for i in result.iterations]
    assert distances[0] == result.initial.feature_distance
    assert distances[-1] == result.final.feature_distance
    assert result.initial.embedding_distance is None
    assert result.stems_SCT.shape == source.shape
    assert result.receptive_field_samples is None


def test_embeddings_come_nearer_and_both_distances_are_recorded(
    make_stems: Make, standardisation: Standardisation
) -> None:
    target = make_stems(seed=1) * torch.tensor([0.1, 3.0, 0.5, 2.0]).view(-1, 1, 1)
    result = transfer(
        make_stems(),
        target,
        standardisation,
        optimize_target="embeddings",
        encoder=LevelEncoder(),
        num_steps=10,
        method="console",
    )
    assert result.initial.embedding_distance is not None
    assert result.final.embedding_distance is not None
    assert result.final.embedding_distance < 0.5 * result.initial.embedding_distance
    assert all(i.feature_distance > 0 for i in result.iterations)


def fit(
    source: Tensor,
    target: Tensor,
    standardisation: Standardisation,
    share: float,
    *,
    num_steps: int = 25,
) -> TransferResult:
    """Fit with one style share for all features."""
    with pytest.MonkeyPatch.context() as patch:
        share_D = torch.full((len(FEATURE_NAMES),), share)
        patch.setattr("mixprint.transfer.settings.load_style_share", lambda: share_D)
        return transfer(
            source, target, standardisation, aim="style", num_steps=num_steps, method="console"
        )


def test_with_half_of_every_share_it_goes_half_of_the_way(
    make_stems: Make, standardisation: Standardisation
) -> None:
    # Nothing but the level differs, and every feature of level goes half of the 12 dB.
    source = make_stems()
    half, whole = (fit(source, 0.25 * source, standardisation, share) for share in (0.5, 1.0))
    for result, gain_db in ((half, -6.02), (whole, -12.04)):
        level_2 = torch.stack([x.square().mean() for x in (result.stems_SCT, source)])
        assert float(10 * torch.log10(level_2[0] / level_2[1])) == pytest.approx(gain_db, abs=1.0)
        assert result.initial.aim_distance is not None
        assert result.final.aim_distance is not None
        assert result.final.aim_distance < 0.2 * result.initial.aim_distance
    assert half.initial.aim_distance == pytest.approx(0.5 * half.initial.feature_distance, rel=1e-4)
    # Half of the way is still half of the way off.
    assert half.final.feature_distance == pytest.approx(
        0.5 * half.initial.feature_distance, rel=0.15
    )


def test_an_estimated_aim_moves_the_console_less_than_the_targets_own_features(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = make_stems(), make_stems(seed=1, gain=0.4)
    estimated = fit(source, target, standardisation, 1.0)
    literal = transfer(source, target, standardisation, num_steps=15, method="console")
    moved_db = []
    for result in (estimated, literal):
        settings = result.effect.settings(torch.ones(4))
        assert settings is not None
        names = [f"{stem}.eq.{band}.gain_db" for stem in STEMS for band in ("low", "bell2", "high")]
        moved_db.append(sum(abs(settings[name]) for name in names))
    assert 0 < moved_db[0] < 0.9 * moved_db[1]


def test_without_any_share_nothing_needs_to_move(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source = make_stems()
    result = fit(source, make_stems(seed=1, gain=0.4), standardisation, 0.0)
    assert torch.equal(result.stems_SCT, source)
    assert result.converged
    assert result.num_steps == 0


def test_what_lies_far_below_the_mix_is_left_alone(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source = make_stems()
    source[1] *= 10 ** (-40 / 20)  # the bass, 6 dB below the loudest stem before
    result = fit(source, make_stems(seed=1), standardisation, 1.0, num_steps=2)
    assert result.stems_left_alone == ("bass",)
    assert torch.equal(result.stems_SCT[1], source[1])


def test_no_steps_give_the_input_to_the_bit(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source = make_stems()
    result = transfer(source, make_stems(seed=1), standardisation, num_steps=0)
    assert torch.equal(result.stems_SCT, source)
    assert result.initial == result.final
    assert (result.best_step, result.num_steps, result.converged) == (0, 0, False)
    assert result.tcn_residual_db is None


def test_a_song_is_its_own_target(make_stems: Make, standardisation: Standardisation) -> None:
    source = make_stems()
    result = transfer(source, source, standardisation)
    assert torch.equal(result.stems_SCT, source)
    assert result.converged
    assert result.final.feature_distance == 0


def test_the_best_step_is_kept(make_stems: Make, standardisation: Standardisation) -> None:
    # Steps of this rate overshoot: the input stays the best.
    source = make_stems()
    result = transfer(source, make_stems(seed=1), standardisation, lr=1.0, num_steps=3)
    assert result.best_step == 0
    assert torch.equal(result.stems_SCT, source)


def test_equal_seeds_give_equal_results(make_stems: Make, standardisation: Standardisation) -> None:
    runs = [
        transfer(
            make_stems(), make_stems(seed=1, gain=0.3), standardisation, num_steps=2, seed=seed
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].stems_SCT, runs[1].stems_SCT)
    assert not torch.equal(runs[0].stems_SCT, runs[2].stems_SCT)


@pytest.mark.parametrize("silent_song", ["input", "target"])
def test_silent_stems_are_left_alone_with_a_note(
    make_stems: Make, standardisation: Standardisation, silent_song: str
) -> None:
    source, target = make_stems(), make_stems(seed=1, gain=0.3)
    (source if silent_song == "input" else target)[1] = 0
    result = transfer(source, target, standardisation, num_steps=4)
    assert result.stems_left_alone == ("bass",)
    assert silent_song in result.notes[0]
    assert torch.equal(result.stems_SCT[1], source[1])
    assert not torch.equal(result.stems_SCT[2], source[2])
    assert result.final.feature_distance < result.initial.feature_distance


def test_a_kept_stem_is_locked_and_so_is_the_master(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source = make_stems()
    result = fit_style(
        [source],
        Style.of("target", [make_stems(seed=1, gain=0.3)], RATE_HZ),
        RATE_HZ,
        settings(method="console", num_steps=2),
        standardisation=standardisation,
        keep=["bass"],
    )
    found, neutral = result.effect.settings(torch.ones(4)), Settings.neutral(STEMS)
    assert found is not None
    assert found.tracks["bass"] == neutral.tracks["bass"]
    assert found.master == neutral.master
    assert found["drums.fader_db"] + found["drums.trim_db"] < -1.0
    assert torch.equal(result.stems_SCT[1], source[1])


def test_silence_all_over_is_returned(make_stems: Make, standardisation: Standardisation) -> None:
    source = torch.zeros(4, 2, 3 * RATE_HZ)
    result = transfer(source, make_stems(), standardisation)
    assert torch.equal(result.stems_SCT, source)
    assert len(result.notes) == 4
    assert not result.converged or result.num_steps == 0


def test_a_loss_that_is_not_finite_names_the_step(
    make_stems: Make, standardisation: Standardisation
) -> None:
    with pytest.raises(TrainingError, match="step 1"):
        transfer(
            make_stems(),
            make_stems(seed=1, gain=0.1),
            standardisation,
            optimize_target="embeddings",
            # Calls: the target, step 0, step 1.
            encoder=NotFiniteEncoder(first=3),
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"optimize_target": "embeddings"}, "encoder"),
        ({"optimize_target": "loudness"}, "loudness"),
        ({"num_steps": -1}, "num_steps"),
        ({"lr": 0.0}, "lr"),
        ({"receptive_field": float("nan")}, "receptive_field"),
    ],
)
def test_parameters_are_checked(
    make_stems: Make, standardisation: Standardisation, more: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        transfer(make_stems(), make_stems(), standardisation, **more)


@pytest.mark.parametrize(
    ("reason", "stems_SCT"),
    [
        ("shape", torch.zeros(2, 3 * RATE_HZ)),
        ("too_short", torch.zeros(4, 2, RATE_HZ)),
        ("not_finite", torch.full((4, 2, 3 * RATE_HZ), float("nan"))),
    ],
)
def test_audio_is_checked(
    make_stems: Make, standardisation: Standardisation, reason: str, stems_SCT: Tensor
) -> None:
    with pytest.raises(AudioError) as caught:
        fit_style(
            [stems_SCT],
            Style.of("target", [make_stems()], RATE_HZ),
            RATE_HZ,
            settings(),
            standardisation=standardisation,
        )
    assert caught.value.reason == reason
    assert "input" in caught.value.detail


@pytest.mark.parametrize("method", ["console", "tcn"])
def test_the_effect_makes_of_the_segment_what_was_measured(
    make_stems: Make, standardisation: Standardisation, method: str
) -> None:
    target = make_stems(seed=1, gain=0.4)
    result = transfer(make_stems(), target, standardisation, method=method, num_steps=4)
    assert result.final.feature_distance < result.initial.feature_distance
    assert (result.effect.settings(torch.ones(4)) is None) is (method == "tcn")
    rendered_SCT = result.effect(make_stems(), torch.ones(4))
    torch.testing.assert_close(rendered_SCT, result.stems_SCT, atol=1e-6, rtol=0)


def test_what_is_not_finite_later_keeps_the_best_step(
    make_stems: Make, standardisation: Standardisation
) -> None:
    target = make_stems(seed=1) * torch.tensor([0.1, 3.0, 0.5, 2.0]).view(-1, 1, 1)
    result = transfer(
        make_stems(),
        target,
        standardisation,
        optimize_target="embeddings",
        # Calls: the target, step 0 and its record, step 1 to 3.
        encoder=NotFiniteEncoder(first=6, last=6),
        lr=0.01,
    )
    assert 0 < result.best_step < 3
    assert result.num_steps == 3
    assert not result.converged
    assert any("step 3: expected a finite objective" in note for note in result.notes)
    assert result.final.embedding_distance is not None
    assert result.initial.embedding_distance is not None
    assert result.final.embedding_distance < result.initial.embedding_distance


def test_notes_on_songs_that_have_little_in_common(
    make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = make_stems(gain=10), make_stems(seed=1, gain=0.06)
    far = transfer(source, target, standardisation, num_steps=1)
    assert any("very different songs" in note for note in far.notes)
    assert any("poor convergence: the distance of the features" in note for note in far.notes)
    near = transfer(make_stems(), make_stems(), standardisation)
    assert near.notes == []


@pytest.mark.parametrize(("failures", "note"), [(1, "with 50% of each"), (2, "on the CPU")])
def test_short_memory_at_the_fit(
    make_stems: Make,
    standardisation: Standardisation,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    note: str,
) -> None:
    heard = []

    def fails(problem: Problem) -> TransferResult:
        heard.append(problem.segments_SCT[0].shape[-1])
        if len(heard) <= failures:
            raise torch.OutOfMemoryError("too much")
        return real(problem)

    real = tcn_fit.fit_tcn
    monkeypatch.setattr(tcn_fit, "fit_tcn", fails)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    # "meta" stands for a device that is not the CPU; its tensors stay where they are.
    for kind in (Tensor, torch.nn.Module):
        monkeypatch.setattr(kind, "to", lambda self, *args, **more: self)
    result = fit_style(
        [make_stems(8.0)],
        Style.of("b", [make_stems(seed=1, gain=0.3)], RATE_HZ),
        RATE_HZ,
        settings(num_steps=1),
        standardisation=standardisation,
        device="meta",
    )
    assert any(note in line for line in result.notes)
    shares = [1.0, 0.5, 1.0][: failures + 1]
    assert heard == [round(share * 8 * RATE_HZ) for share in shares]
    assert result.final.feature_distance < result.initial.feature_distance


def test_several_segments_are_one_song(make_stems: Make, standardisation: Standardisation) -> None:
    segments = [make_stems(), make_stems(seed=2, gain=0.5)]
    result = fit_style(
        segments,
        Style.of("b", [make_stems(seed=1, gain=0.2)], RATE_HZ),
        RATE_HZ,
        settings(num_steps=3, method="console"),
        standardisation=standardisation,
    )
    assert len(result.segments_SCT) == 2
    # The same controls for both, referring to the mean level of both.
    for before_SCT, after_SCT in zip(segments, result.segments_SCT, strict=True):
        again_SCT = result.effect(before_SCT, torch.ones(4))
        torch.testing.assert_close(after_SCT, again_SCT, atol=1e-6, rtol=0)
    mean = Style.of("a", segments, RATE_HZ)
    target = Style.of("b", [make_stems(seed=1, gain=0.2)], RATE_HZ)
    expected = feature_distance(mean.features_D[None], target.features_D[None], standardisation)
    assert result.initial.feature_distance == pytest.approx(float(expected), abs=1e-4)
