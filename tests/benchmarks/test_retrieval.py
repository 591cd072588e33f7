"""The retrieval benchmark with effects of our own in place of the package's."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from benchmarks.retrieval import (
    AGAINST,
    BASELINES,
    SHIPPED,
    Task,
    Work,
    draw_tasks,
    failures,
    named_folder,
    row,
    systems,
    table,
    table_rows,
)
from benchmarks.retrieval_chains import (
    FAILURES,
    NOT_FINITE,
    RAISED,
    RESHAPED,
    SILENT,
    UNCHANGED,
    MultiAFX,
    Rendered,
    Signal,
    Step,
    render,
)
from benchmarks.retrieval_songs import Mix, Segment, cut_segments, real_mixes
from mixprint.errors import ConfigError, MixprintError
from mixprint.stems import SAMPLE_RATE_HZ
from tests.evaluation.test_baselines import make_encoder

BROKEN = {
    "raises": RAISED,
    "nan": NOT_FINITE,
    "mutes": SILENT,
    "passes": UNCHANGED,
    "cuts": RESHAPED,
}


class StandIn:
    """A gain that tells its seed, and effects that fail in every way there is."""

    failures: tuple[type[Exception], ...] = FAILURES

    def __init__(self, broken: tuple[str, ...] = (), *, works: bool = True) -> None:
        self.identity: Mapping[str, Any] = {"package": "stand-in", "broken": list(broken)}
        self.names = [*broken, *(5 * ["gain"] if works else [])]
        self.num_applied = 0

    def draw(self, seed: int, after: str) -> Step:
        name = self.names[seed % len(self.names)]
        return Step(name, f"{name} not after {after}", {"gain": 0.5 + (seed % 1000) / 2000})

    def apply(self, step: Step, audio_CT: Signal, sample_rate_hz: int, seed: int) -> Signal:
        self.num_applied += 1
        if step.name == "raises":
            raise ValueError("no")
        by_name = {
            "nan": audio_CT * np.nan,
            "mutes": audio_CT * 0,
            "passes": audio_CT,
            "cuts": audio_CT[:, 1:],
            "gain": audio_CT * np.float32(step.parameters["gain"]),
        }
        return by_name[step.name]


def noise(*shape: int) -> Signal:
    return (0.1 * np.random.default_rng(1).normal(size=shape)).astype(np.float32)


def put(
    effects: StandIn, stems_NSCT: Signal, chain: int = 0, lengths: tuple[int, ...] = (1, 3)
) -> Rendered:
    return render(
        stems_NSCT,
        effects,
        chain=chain,
        seed=1,
        lengths=lengths,
        sample_rate_hz=SAMPLE_RATE_HZ,
        keeps_levels=False,
    )


def test_both_songs_go_through_the_same_chain_and_short_chains_begin_long_ones() -> None:
    stems_NSCT = noise(2, 4, 2, 100)
    found = put(StandIn(), stems_NSCT)
    gain_NS1 = found.stems[1][..., 0, 0] / stems_NSCT[..., 0, 0]
    np.testing.assert_allclose(gain_NS1[0], gain_NS1[1], rtol=1e-5)
    assert len(set(gain_NS1[0].round(4).tolist())) == 4, "each stem has its own"
    np.testing.assert_allclose(found.stems[1], stems_NSCT * gain_NS1[..., None, None], rtol=1e-5)
    assert [len(names) for names in found.names] == [3] * 4
    longer = put(StandIn(), stems_NSCT, lengths=(1, 2, 3, 5))
    np.testing.assert_array_equal(longer.stems[3], found.stems[3])
    assert (put(StandIn(), stems_NSCT, chain=1).stems[1] != found.stems[1]).any()
    # Louder than a file holds it is cut off, but the next effect still hears it.
    assert np.abs(put(StandIn(), 20 * stems_NSCT).stems[1]).max() == 1


def test_what_fails_is_drawn_anew_for_both_and_listed() -> None:
    effects = StandIn(tuple(BROKEN))
    found = put(effects, noise(2, 4, 2, 100), lengths=(8,))
    assert {name for names in found.names for name in names} == {"gain"}
    assert dict(found.failures) == BROKEN
    with pytest.raises(MixprintError, match="chain 0, stem 0: expected an effect that works"):
        put(StandIn(("nan",), works=False), noise(2, 4, 2, 100))


def test_a_stem_that_rests_has_nothing_to_change() -> None:
    stems_NSCT = noise(2, 4, 2, 100)
    stems_NSCT[1, 2] = 0
    found = put(StandIn(("passes",)), stems_NSCT)
    assert not found.stems[3][1, 2].any()
    assert {reason for _, reason in found.failures} == {UNCHANGED}


def test_levels_are_those_of_before_the_chain() -> None:
    stems_NSCT = noise(2, 4, 2, 100)
    stems_NSCT[1, 2] = 0
    found = render(
        stems_NSCT,
        StandIn(),
        chain=0,
        seed=1,
        lengths=(2,),
        sample_rate_hz=SAMPLE_RATE_HZ,
        keeps_levels=True,
    )
    # A gain is all that the effects do, and it is taken back.
    np.testing.assert_allclose(found.stems[2], stems_NSCT, rtol=1e-5)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="expected the program sox"):
        MultiAFX()
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/sox")
    monkeypatch.setitem(sys.modules, "multiafx", None)
    with pytest.raises(ConfigError, match="expected the package multiafx"):
        MultiAFX()


def quarters(audio_CT: Tensor) -> Tensor:
    return audio_CT.expand(4, -1, -1) / 4


def write(path: Path, audio_CT: Signal) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, audio_CT.T, SAMPLE_RATE_HZ, subtype="FLOAT")
    return path


def test_songs_are_separated_once_and_cut_where_they_sound(tmp_path: Path) -> None:
    song_CT = noise(2, 3 * SAMPLE_RATE_HZ)
    song_CT[:, SAMPLE_RATE_HZ : 2 * SAMPLE_RATE_HZ] = 0
    write(tmp_path / "audio/mixtures/song.wav", song_CT)
    write(tmp_path / "audio/mixtures/short.wav", song_CT[:, :1000])
    write(tmp_path / "audio/separated/two/mixture.wav", song_CT[:, :SAMPLE_RATE_HZ])
    write(tmp_path / "audio/separated/two/bass.wav", song_CT)
    for name in ("a", "b"):
        write(tmp_path / f"audio/multitrack/{name}.wav", song_CT)
    mixes = real_mixes(tmp_path / "audio")
    assert [mix.song for mix in mixes] == ["short", "song", "two", "multitrack"]
    torch.testing.assert_close(mixes[-1].read(), torch.from_numpy(2 * song_CT))
    found = cut_segments(mixes, tmp_path / "kept", quarters, {"name": "stub"}, 1.0)
    assert [(segment.song, segment.start_s) for segment in found] == [
        ("song", 0.0),
        ("song", 2.0),
        ("two", 0.0),
        ("multitrack", 0.0),
        ("multitrack", 2.0),
    ]
    torch.testing.assert_close(
        found[1].read()[3], torch.from_numpy(song_CT[:, 2 * SAMPLE_RATE_HZ :]) / 4
    )

    def broken(audio_CT: Tensor) -> Tensor:
        raise AssertionError("its stems are kept")

    assert cut_segments(mixes, tmp_path / "kept", broken, {"name": "stub"}, 1.0) == found
    with pytest.raises(ConfigError, match="expected recordings"):
        real_mixes(tmp_path / "nothing")


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    """Three chains on segments of 3 s of two songs."""
    mixes = [
        Mix(name, (write(tmp_path / f"{name}.wav", (1 + n) * noise(2, 3 * SAMPLE_RATE_HZ)),))
        for n, name in enumerate("ab")
    ]
    segments: list[Segment] = cut_segments(mixes, tmp_path / "kept", quarters, {}, 3.0)
    return draw_tasks("generated", segments, 3, seed=1)


def test_rows_are_kept_and_become_tables(tasks: list[Task], tmp_path: Path) -> None:
    assert all(task.query.song != task.partner.song for task in tasks)
    effects = StandIn(("nan",))
    work = Work(
        finished=tmp_path / "rows",
        checkpoints={},
        seed=1,
        untrained_seed=1,
        load_effects=StandIn,
        keeps_levels=False,
        lengths=(2,),
    )
    known = systems({SHIPPED: make_encoder()}, 1)
    rows = [row(work, effects, known, task) for task in tasks]
    before = effects.num_applied
    assert [row(work, effects, known, task) for task in tasks] == rows
    assert effects.num_applied == before, "found, not made again"
    assert [len(vectors) for vectors in rows[0]["vectors"]["features"]["2"]] == [64, 64]

    found = table_rows(rows, [SHIPPED], num_bootstrap=10)
    assert [each["system"] for each in found] == [SHIPPED, *BASELINES, "chance"]
    # Only levels differ, and each song has another one, which the features tell from the chain.
    by_system = {each["system"]: each for each in found}
    assert by_system[AGAINST]["difference"]["mrr"] == {"value": 0, "low": 0, "high": 0}
    assert by_system["chance"]["recall_at_1"] == pytest.approx(1 / 3)
    text = table(
        {
            "machine": {"processor": "some"},
            "chains": 3,
            "segment_s": 3.0,
            "levels": "kept",
            "num_songs": {"generated": 2},
            "tables": {"generated": found},
            "failures": failures(rows),
            "cpu_s_per_chain": 1.25,
        }
    )
    assert "Songs: generated, 2; pool of 3 mixes" in text
    assert "| 2 | chance | 33 | 100 | 100 | 61 |  |" in text
    assert f"`nan` {NOT_FINITE} (" in text


def test_an_encoder_goes_by_its_name() -> None:
    assert named_folder("first=results/x=y") == ("first", Path("results/x=y"))
    assert named_folder("results/x") == ("results/x", Path("results/x"))
    # Else the features of the table would be this encoder's embeddings.
    with pytest.raises(ConfigError, match="found 'features'"):
        named_folder("features=results/x")
