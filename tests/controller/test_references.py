"""Finished mixes of noise whose level tells the second."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import write_audio
from mixprint.controller import references
from mixprint.controller.data import ExampleReader
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.inputs import MID_SIDE_KINDS, STEM_KINDS
from mixprint.controller.measured import measure_examples
from mixprint.controller.references import LEFT_OUT_FILE, MeasuredReferences, measure_references
from mixprint.controller.training import TrainingSetup, train_controller
from mixprint.errors import ConfigError, DataError
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from mixprint.storage.bucket import open_bucket
from tests.bucket import Bucket
from tests.controller.trials import RATE_HZ, NoiseExamples, config, examples, phase, quick_console

CPU = torch.device("cpu")


def noise(seed: int, duration_s: int) -> Tensor:
    """Return noise whose RMS is a hundredth in the first second, two in the next one ..."""
    generator = torch.Generator().manual_seed(seed)
    level_T = torch.arange(1, duration_s + 1).repeat_interleave(RATE_HZ) / 100
    return level_T * torch.randn(2, duration_s * RATE_HZ, generator=generator).clamp(-3, 3)


def write_mixes(folder: Path) -> Path:
    """Write a long song, one with stems that do not quite add up, and what cannot be used."""
    song = folder / "album" / "song"
    song.mkdir(parents=True)
    write_audio(folder / "long.wav", noise(0, 10), RATE_HZ)
    write_audio(folder / "same.wav", noise(0, 10), RATE_HZ)
    write_audio(folder / "short.wav", noise(1, 2), RATE_HZ)
    (folder / "text.wav").write_text("no audio")
    for number, stem in enumerate(STEMS):
        write_audio(song / f"{stem}.wav", noise(number, 3), RATE_HZ)
    write_audio(song / "Mixture.wav", 0.5 * sum(noise(n, 3) for n in range(4)), RATE_HZ)
    (folder / "part").mkdir()
    write_audio(folder / "part" / "vocals.wav", noise(7, 3), RATE_HZ)
    write_audio(folder / "part" / "mixture.wav", noise(8, 3), RATE_HZ)
    return folder


def measured(location: str, folder: Path, **changes: Any) -> MeasuredReferences:
    given = {"excerpt_s": 1.0, "num_excerpts": 2, "encoder": None, "device": CPU} | changes
    return measure_references(location, folder=folder, **given)


def test_mixes_are_measured_once_and_what_is_bad_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Bucket
) -> None:
    mixes = write_mixes(tmp_path / "mixes")
    found = measured(str(mixes), tmp_path / "a")
    # Two excerpts of each song: of `long`, of the folder `song`, and of the mixture beside a voice.
    assert len(found.items) == 6
    left_out = {each["reason"]: each["detail"] for each in found.refused}
    assert left_out.keys() == {"missing_stems", "unreadable", "too_short", "duplicate"}
    assert left_out["duplicate"] == "same: same audio as long"
    assert "missing are bass, drums, other" in left_out["missing_stems"]
    assert read_json(tmp_path / "a" / LEFT_OUT_FILE) == found.refused
    # The excerpts are spread over a song: of ten seconds the first one, and one near the end.
    seconds = [round(100 * float(found.audio(n).std())) for n in range(6)]
    assert seconds[:2] == [1, 9]
    number = next(n for n, item in enumerate(found.items) if len(item.stem_SD))
    stems_SCT = torch.stack([noise(n, 3)[:, :RATE_HZ] for n in range(4)])
    torch.testing.assert_close(
        found.audio(number), 0.5 * stems_SCT.sum(dim=0), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(
        found.items[number].stem_SD, describe_audio(stems_SCT, RATE_HZ), atol=0.3, rtol=1e-3
    )
    # In a bucket it is the same.
    files = [path for path in mixes.rglob("*") if path.is_file()]
    uri = "gs://bucket/mixes"
    open_bucket(uri).upload_all({p.relative_to(mixes).as_posix(): p for p in files})
    there = measured(uri, tmp_path / "b")
    torch.testing.assert_close(there.items, found.items, rtol=0, atol=0)
    assert {each["detail"] for each in there.refused} == {
        each["detail"].replace(str(mixes), uri) for each in found.refused
    }
    # What has not changed is read; what has changed is measured anew.
    seen: list[str] = []
    measure = references._measure
    monkeypatch.setattr(
        references, "_measure", lambda song, *rest: seen.append(song.name) or measure(song, *rest)
    )
    assert measured(str(mixes), tmp_path / "a").fingerprint == found.fingerprint
    assert seen == []
    write_audio(mixes / "short.wav", noise(1, 4), RATE_HZ)
    assert measured(str(mixes), tmp_path / "a").fingerprint != found.fingerprint
    assert seen == ["short"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="finished mixes that can be used, found none"):
        measured(str(tmp_path / "none"), tmp_path / "c")


def test_method_2_aims_at_references_unless_they_are_dropped(tmp_path: Path) -> None:
    mixes = write_mixes(tmp_path / "mixes")
    found = measured(str(mixes), tmp_path / "references")
    used = config(
        phases=(phase("method2", 1, batch_size=40),),
        num_audio=4,
        examples=examples(excerpt_s=1.0),
        references=str(mixes),
        reference_dropout=0.5,
        stems_dropout=0.0,
        embedding_alone=0.0,
    )
    known = measure_examples(
        NoiseExamples("train", 1.0),
        4,
        num_audio=4,
        encoder=None,
        folder=tmp_path / "examples",
        num_workers=0,
        device=CPU,
    )
    batch = ExampleReader(used, known, 1, found)[0]
    assert batch is not None
    sounds = [found.audio(number) for number in range(len(found.items))]
    inputs = batch.inputs
    is_told_B = inputs.is_part_BR.any(dim=1)
    assert 0.25 < float(is_told_B.float().mean()) < 0.75
    drawn = set()
    for row, heard in enumerate(batch.heard):
        if not is_told_B[row]:
            assert heard.reference_CT.shape[-1] == 0
            continue
        (number,) = (n for n, sound in enumerate(sounds) if sound.equal(heard.reference_CT))
        drawn.add(number)
        item = found.items[number]
        has_stems = len(item.stem_SD) > 0
        kind_R = inputs.kind_BR[row, inputs.is_part_BR[row]].tolist()
        assert kind_R == list(STEM_KINDS if has_stems else MID_SIDE_KINDS)
        expected_RD = item.stem_SD if has_stems else item.mid_side_2D
        assert inputs.reference_BRD[row, : len(expected_RD)].equal(expected_RD)
    assert len(drawn) == len(sounds)
    # All references dropped, and no prior: there is nothing to be learned.
    changes = {"reference_dropout": 1.0, "phases": (phase("method2", 1, prior_weight=0.0),)}
    setup = TrainingSetup(
        config=replace(used, **changes),
        train=NoiseExamples("train", 1.0),
        valid=NoiseExamples("valid"),
        encoder=None,
        out_dir=tmp_path / "out",
    )
    with quick_console():
        outcome = train_controller(setup)
    assert outcome.history[-1]["train.loss"] == 0.0


def test_references_want_a_phase_that_learns_from_them() -> None:
    with pytest.raises(ConfigError, match=r"a phase of method2.*got likelihood, audio"):
        config(references="mixes")
