import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mixprint.controller.checkpoint import load_controller
from mixprint.controller.data import ExampleReader, louder
from mixprint.controller.heads import StripPrediction
from mixprint.controller.inputs import MID_SIDE_KINDS, STEM_KINDS
from mixprint.controller.losses import level_loss
from mixprint.controller.measured import MeasuredExample, MeasuredExamples, measure_examples
from mixprint.controller.model import Outputs
from mixprint.controller.targets import MASTER, TRACK
from mixprint.controller.training import TrainingSetup, train_controller
from mixprint.errors import ConfigError, TrainingError
from mixprint.features.descriptors import NUM_MELS
from mixprint.training.engine import Outcome
from tests.controller.trials import (
    EXAMPLE_S,
    NoiseExamples,
    config,
    examples,
    phase,
    quick_console,
)

CPU = torch.device("cpu")


def train(out_dir: Path, *, initial: Path | None = None, **changes: Any) -> Outcome:
    setup = TrainingSetup(
        config=config(**changes),
        train=NoiseExamples("train"),
        valid=NoiseExamples("valid"),
        encoder=None,
        out_dir=out_dir,
        initial=None if initial is None else load_controller(initial),
    )
    with quick_console():
        return train_controller(setup)


def measured(
    folder: Path, num_examples: int, source: NoiseExamples | None = None, **options: Any
) -> MeasuredExamples:
    given = {"num_audio": 0, "encoder": None, "num_workers": 0, "device": CPU} | options
    return measure_examples(source or NoiseExamples("valid"), num_examples, folder=folder, **given)


def test_what_was_measured_is_read_again_and_what_was_lost_made_anew(tmp_path: Path) -> None:
    made = measured(tmp_path, 3, num_audio=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000-000002.safetensors",
        "000002-000003.safetensors",
        "audio-000000.safetensors",
    ]
    (tmp_path / "000000-000002.safetensors").unlink()
    # More examples are added to those that there are, also to a batch that was not full.
    again = measured(tmp_path, 4, num_audio=1)
    for one, other in zip(made.items, again.items[:3], strict=True):
        torch.testing.assert_close(vars(one), vars(other), rtol=0, atol=0)
    example = NoiseExamples("valid").example(0)
    assert example.truth_NCT is not None
    torch.testing.assert_close(again.audio(0).truth_NCT, example.truth_NCT, atol=1e-3, rtol=1e-3)
    (tmp_path / "000000-000002.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="expected what was measured"):
        measured(tmp_path, 3, num_audio=1)


def test_louder_stems_go_with_faders_that_are_as_much_higher(tmp_path: Path) -> None:
    (item,) = measured(tmp_path, 3).items[2:]
    other = louder(item, random.Random(0), 3.0)
    fader = next(n for n, each in enumerate(TRACK.fields) if each.name == "fader_db")
    moved_NK = other.track_NK - item.track_NK
    fader_db_N = moved_NK[:, fader] * (TRACK.fields[fader].high - TRACK.fields[fader].low)
    # Tracks of vocals, bass and drums, in the order of the stems.
    torch.testing.assert_close((other.stem_SD - item.stem_SD)[:3, 0], fader_db_N, atol=1e-3, rtol=0)
    assert fader_db_N.abs().min() > 0.01
    assert moved_NK.count_nonzero() == 3
    assert louder(item, random.Random(0), 0.0) is item


def test_an_answer_that_can_only_be_heard_is_compared_by_its_levels(tmp_path: Path) -> None:
    settings_are_known, sound_is = (
        measured(tmp_path / name, 4, source=NoiseExamples("valid", knows_settings=known))
        for name, known in (("settings", True), ("sound", False))
    )
    for item in sound_is.items:
        assert item.track_weight_NK.count_nonzero() == item.master_weight_K.count_nonzero() == 0
        assert item.truth_ND.shape == item.track_ND.shape
    assert all(len(item.truth_ND) == 0 for item in settings_are_known.items)
    used = config(phases=(phase("likelihood", 1, batch_size=4),), level_noise_db=0.0)
    reader = ExampleReader(used, sound_is, 1)
    batch = reader[0]
    assert batch is not None
    assert bool(batch.has_truth_B.all())
    answers = [settings_are_known.items[number] for _, number in reader.numbers(0)]
    num_tracks = batch.inputs.is_track_BN.shape[1]

    def distance(items: Sequence[MeasuredExample | None]) -> float:
        """Compare levels under the settings of examples, or under neutral ones."""
        strips = [TRACK.neutral_K.repeat(num_tracks, 1) for _ in items]
        for strip_NK, item in zip(strips, items, strict=True):
            if item is not None:
                strip_NK[: len(item.track_NK)] = item.track_NK
        open_NG = torch.full((len(items) * num_tracks, len(TRACK.gates)), 20.0)
        master_BK = MASTER.neutral_K.repeat(len(items), 1)
        track_NK = torch.cat(strips)
        found = Outputs(
            StripPrediction(track_NK, torch.zeros_like(track_NK), open_NG),
            StripPrediction(master_BK, master_BK, open_NG[: len(items), : len(MASTER.gates)]),
        )
        truth = (batch.track, batch.master, batch.truth_BND, batch.has_truth_B)
        return float(level_loss(found, batch.inputs, *truth).mean())

    assert distance(answers) < 0.5 * distance([None] * len(answers))


def test_styles_change_as_often_as_asked_for_where_the_tracks_of_a_reference_are_known(
    tmp_path: Path,
) -> None:
    items = list(measured(tmp_path, 4).items)
    for number in (0, 1):
        item = items[number]
        power_P3M = torch.tensor([2.0, 1.0, 0.5])[:, None].repeat(len(item.role_N), 1, NUM_MELS)
        items[number] = replace(
            item, part_P3M=power_P3M, part_role_P=item.role_N, part_PK=item.track_NK
        )
    gain = next(n for n, each in enumerate(TRACK.fields) if each.name == "eq.low.gain_db")
    for share in (0.0, 1.0):
        used = config(
            phases=(phase("likelihood", 1, batch_size=16),), num_audio=1, style_noise_share=share
        )
        reader = ExampleReader(used, MeasuredExamples(items, tmp_path), 1)
        batch = reader[0]
        assert batch is not None
        learned_B = batch.track.position_NK.view(16, -1, len(TRACK.fields))[:, 0, gain]
        numbers = [number for _, number in reader.numbers(0)]
        assert set(numbers) == {0, 1, 2, 3}
        true_B = torch.stack([items[number].track_NK[0, gain] for number in numbers])
        assert (learned_B != true_B).tolist() == [share == 1 and n < 2 for n in numbers]


def test_each_objective_hears_what_it_learns_from(tmp_path: Path) -> None:
    kinds = ("likelihood", "audio", "method1", "method2")
    duration_s = 2 * EXAMPLE_S
    used = config(
        phases=tuple(phase(kind, 1, batch_size=3) for kind in kinds),
        num_examples=4,
        num_audio=4,
        examples=examples(excerpt_s=duration_s),
        stems_dropout=0.0,
        reference_dropout=0.0,
    )
    folder, source = tmp_path / "measured", NoiseExamples("train", duration_s)
    known = measure_examples(
        source, 4, num_audio=4, encoder=None, folder=folder, num_workers=0, device=CPU
    )
    reader = ExampleReader(used, known, 1)
    batches = [reader[step] for step in range(4)]
    likelihood, audio, method1, method2 = batches
    assert likelihood is not None
    assert audio is not None
    assert method1 is not None
    assert method2 is not None
    assert likelihood.heard == []
    for row, (_, number) in enumerate(reader.numbers(1)):
        torch.testing.assert_close(audio.heard[row].truth_NCT, known.audio(number).truth_NCT)
    # Method 1: the second half has to sound as the first one, which is the reference.
    half = source.num_samples // 2
    assert method1.inputs.kind_BR[0].tolist() == list(MID_SIDE_KINDS)
    assert {heard.tracks_NCT.shape[-1] for heard in method1.heard} == {half}
    (_, number), *_ = reader.numbers(2)
    torch.testing.assert_close(
        method1.heard[0].truth_NCT, known.audio(number).truth_NCT[..., half:]
    )
    # Method 2: the mix of another song, of which there is no truth.
    assert method2.inputs.kind_BR[0].tolist() == list(STEM_KINDS)
    assert all(len(heard.truth_NCT) == 0 for heard in method2.heard)
    assert {heard.reference_CT.shape[-1] for heard in method2.heard} == {source.num_samples}
    # The rest of a batch is padding.
    sizes = [len(known.items[number].role_N) for _, number in reader.numbers(0)]
    assert likelihood.inputs.is_track_BN.sum(dim=1).tolist() == sizes
    assert len(likelihood.track.position_NK) == 3 * max(sizes)


def test_all_objectives_are_learned_in_turn_and_a_training_starts_from_another(
    tmp_path: Path,
) -> None:
    head: Any = "chain"  # the other one keeps all promises of trainings
    kinds = ("likelihood", "audio", "method2")
    phases = tuple(phase(kind, 1, likelihood_weight=0.1) for kind in kinds)
    outcome = train(tmp_path / "a", head=head, phases=phases, valid_steps=3)
    assert outcome.history[-1]["step"] == 3
    assert outcome.best["valid.relative"] == pytest.approx(
        outcome.best["valid.distance"] / outcome.best["valid.mean_style_distance"]
    )
    one = load_controller(tmp_path / "a")
    assert one.metadata["metrics"]["valid.distance"] == outcome.best["valid.distance"]
    slow = (phase("likelihood", 1, learning_rate=1e-9),)
    train(tmp_path / "b", initial=tmp_path / "a", head=head, phases=slow, valid_steps=1)
    other = load_controller(tmp_path / "b")
    torch.testing.assert_close(
        one.network.state_dict(), other.network.state_dict(), atol=1e-6, rtol=1e-5
    )
    with pytest.raises(ConfigError, match="controller to start from"):
        train(tmp_path / "c", initial=tmp_path / "a", head=head, width=8)


def test_parts_of_what_is_known_of_a_reference_drop_out_as_often_as_asked_for(
    tmp_path: Path,
) -> None:
    known = measured(tmp_path, 2, num_audio=1)
    # Embeddings as of an encoder.
    items = [replace(item, embedding_E=torch.tensor([0.6, 0.8])) for item in known.items]
    used = config(
        phases=(phase("likelihood", 1, batch_size=400),),
        num_examples=2,
        num_audio=1,
        reference_dropout=0.2,
        stems_dropout=0.5,
        embedding_dropout=0.0,
        embedding_alone=0.25,
        role_dropout=0.5,
    )
    batch = ExampleReader(used, MeasuredExamples(items, tmp_path), 2)[0]
    assert batch is not None
    inputs = batch.inputs
    has_parts_B = inputs.is_part_BR.any(dim=1)
    is_alone_B = inputs.has_embedding_B & ~has_parts_B
    is_mid_side_B = has_parts_B & ~inputs.has_embedding_B
    has_nothing_B = ~has_parts_B & ~inputs.has_embedding_B
    shares = [float(x.float().mean()) for x in (has_nothing_B, is_alone_B, is_mid_side_B)]
    # Of mid and side alone there is no embedding, as there are no stems to embed.
    assert shares == pytest.approx([0.2, 0.8 * 0.5 * 0.25, 0.8 * 0.5], abs=0.06)
    assert inputs.is_part_BR[is_mid_side_B].sum(dim=1).unique().tolist() == [2]
    length_B = inputs.embedding_BE[inputs.has_embedding_B].norm(dim=1)
    torch.testing.assert_close(length_B, torch.ones_like(length_B))
    known_N = (inputs.role_BN[inputs.is_track_BN] > 0).float()
    assert float(known_N.mean()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"examples": examples(excerpt_s=0.2)},
            r"controller\.examples\.excerpt_s must be at least 0\.29 for context_s 0\.1",
        ),
        ({"phases": (phase("method1", 1),)}, r"excerpt_s must be at least 0\.57"),
        ({"num_audio": 5}, "num_audio must be at most num_examples, got 5 and 4"),
    ],
)
def test_parameters_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)
