import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mixprint.cli import app
from mixprint.collection.catalogue import write_catalogue
from mixprint.collection.shards import SeparatorFingerprint, shard_name, write_shard
from mixprint.encoder.checkpoint import load_checkpoint, save_checkpoint
from mixprint.errors import CheckpointError, DataError
from mixprint.evaluation.quality import QualityHead, cross_validate, read_scores
from mixprint.storage.atomic import read_json, write_json
from tests.evaluation.test_baselines import make_encoder
from tests.evaluation.test_evaluate import track

RATE_HZ = 44_100
TRACKS = [track("id0", "song a", "dry"), track("id1", "song b", "dry"), track("id2", "c", "x")]


def table(folder: Path, *rows: str, header: str = "track,score") -> Path:
    path = folder / "scores.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_scores_by_id_and_by_title(tmp_path: Path) -> None:
    path = table(tmp_path, "id0, 71.5", "", f'"{TRACKS[1].title}",3e1')
    assert read_scores(path, TRACKS) == {"id0": 71.5, "id1": 30.0}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as some spreadsheets write it
    assert read_scores(path, TRACKS) == {"id0": 71.5, "id1": 30.0}


def test_titles_in_two_spellings_of_unicode_are_one_title(tmp_path: Path) -> None:
    tracks = [replace(TRACKS[0], title="Caf\u00e9"), replace(TRACKS[1], title="U\u0308ber")]
    path = table(tmp_path, "Cafe\u0301,1", "\u00dcber,2")
    assert read_scores(path, tracks) == {"id0": 1.0, "id1": 2.0}


def test_all_bad_rows_are_listed(tmp_path: Path) -> None:
    path = table(
        tmp_path, "id0,1", "id9,2", "id1,good", "id2,nan", f'"{TRACKS[0].title}",4', "id1", "id2,5"
    )
    with pytest.raises(DataError) as error:
        read_scores(path, TRACKS)
    lines = str(error.value).splitlines()
    assert "scores.csv" in lines[0]
    assert "5 bad rows" in lines[0]
    for line, number, text in zip(
        lines[1:],
        (3, 4, 5, 6, 7),
        ("unknown track 'id9'", "found 'good'", "found 'nan'", "in line 2", "2 values, found 1"),
        strict=True,
    ):
        assert f"line {number}:" in line
        assert text in line


def test_bad_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="readable"):
        read_scores(tmp_path / "absent.csv", TRACKS)
    with pytest.raises(DataError, match=r"header 'track,score', found 'song,score'"):
        read_scores(table(tmp_path, "id0,1", header="song,score"), TRACKS)
    with pytest.raises(DataError, match="no row"):
        read_scores(table(tmp_path), TRACKS)
    twins = [track("id0", "same", "dry"), track("id1", "same", "dry")]
    with pytest.raises(DataError, match="2 tracks have the title"):
        read_scores(table(tmp_path, f'"{twins[0].title}",1'), twins)
    many = [f"unknown{i},1" for i in range(50)]
    with pytest.raises(DataError, match="and 30 more"):
        read_scores(table(tmp_path, *many), TRACKS)


NUM_SONGS, MIXES = 15, 6
SONGS = [f"song{i}" for i in range(NUM_SONGS) for _ in range(MIXES)]


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_score_that_the_embedding_holds_is_found() -> None:
    embedding_NE = normal(len(SONGS), 6, seed=0)
    # Not linear, so one layer would not do.
    score_N = 50 + 10 * np.abs(embedding_NE[:, 0]) + 3 * embedding_NE[:, 1]
    found = cross_validate(embedding_NE, score_N, SONGS, num_bootstrap=50)
    assert found.r2.value > 0.6
    assert found.kendall_tau.value > 0.6
    assert found.r2.low <= found.r2.value <= found.r2.high
    assert found.predicted_N.shape == score_N.shape


def test_a_score_that_hangs_on_the_song_alone_is_not() -> None:
    song_N = np.repeat(np.arange(NUM_SONGS), MIXES)
    score_N = normal(NUM_SONGS, seed=1)[song_N]
    found = cross_validate(np.eye(NUM_SONGS)[song_N], score_N, SONGS, num_bootstrap=20)
    assert found.r2.value < 0.1


def test_too_little_to_learn_from() -> None:
    with pytest.raises(DataError, match="2 songs"):
        cross_validate(normal(4, 2, seed=0), np.arange(4.0), ["a", "a", "b", "b"])
    with pytest.raises(DataError, match="1 different scores"):
        cross_validate(normal(4, 2, seed=0), np.ones(4), ["a", "b", "c", "d"])


def test_a_head_survives_the_disk_and_fits_one_encoder(tmp_path: Path) -> None:
    embedding_NE, score_N = normal(30, 4, seed=0), normal(30, seed=1)
    state = torch.get_rng_state()
    head = QualityHead.fit(embedding_NE, score_N, SONGS[:30], seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    head.save(tmp_path, "encoder a", {"r2": 0.5})
    loaded = QualityHead.load(tmp_path, "encoder a")
    np.testing.assert_array_equal(loaded.predict(embedding_NE), head.predict(embedding_NE))
    again = QualityHead.fit(embedding_NE, score_N, SONGS[:30], seed=1)
    np.testing.assert_array_equal(again.predict(embedding_NE), head.predict(embedding_NE))
    with pytest.raises(CheckpointError, match="encoder b"):
        QualityHead.load(tmp_path, "encoder b")
    weights = tmp_path / "head.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="SHA-256"):
        QualityHead.load(tmp_path, "encoder a")
    write_json(tmp_path / "head.json", {"format": "other"})
    with pytest.raises(CheckpointError, match="found 'other'"):
        QualityHead.load(tmp_path, "encoder a")
    with pytest.raises(CheckpointError, match=r"absent/head\.json: expected a readable file"):
        QualityHead.load(tmp_path / "absent", "encoder a")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a catalogue, stems of 3 songs, and an encoder of a few weights."""
    root = tmp_path_factory.mktemp("quality")
    tracks = [
        track(f"id{i}", f"song{i}", "dry", split)
        for i, split in enumerate(("train", "valid", "test"))
    ]
    write_catalogue(root / "catalogue", tracks, [])
    with write_shard(
        root / "stems" / shard_name(0, 1),
        fingerprint="x",
        sample_rate_hz=RATE_HZ,
        separator=SeparatorFingerprint("true_stems", "", "x"),
    ) as writer:
        for i, one in enumerate(tracks):
            noise_SCT = torch.randn(4, 2, 3 * RATE_HZ, generator=torch.Generator().manual_seed(i))
            writer.write(one.track_id, 0, 0.0, 0.05 * noise_SCT)
    encoder = make_encoder()
    save_checkpoint(root / "encoder", encoder.model, encoder.standardisation, {})
    return root


def arguments(root: Path, out: Path) -> list[str]:
    folders = [
        f"--{name}={root / folder}"
        for name, folder in (
            ("catalogue", "catalogue"),
            ("stems", "stems"),
            ("checkpoint", "encoder"),
        )
    ]
    return ["quality", *folders, f"--out={out}", "--bootstrap=10", "--device=cpu"]


def test_generated_degradations_from_the_command_line(workplace: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments(workplace, tmp_path / "out"), "--variants=4"])
    assert result.exit_code == 0, result.output
    assert "12 mixes of 3 songs" in result.output
    assert re.search(r"64 features: R2 -?\d+\.\d+ \[.*Kendall's tau", result.output)
    assert "know 1 from its training" in result.output
    results = read_json(tmp_path / "out" / "quality.json")
    assert (results["num_songs"], results["num_training_songs"]) == (3, 1)
    assert results["labels"] == "generated degradations"
    assert set(results["encoder_kendall_tau_by_kind"]) == {
        "clipping",
        "noise",
        "masking",
        "over-compression",
    }
    encoder = load_checkpoint(workplace / "encoder")
    head = QualityHead.load(tmp_path / "out", encoder.fingerprint)
    assert head.predict(normal(2, 8, seed=0)).shape == (2,)


def test_a_table_from_the_command_line(workplace: Path, tmp_path: Path) -> None:
    path = table(tmp_path, "id0,1", "id1,2", "id2,4")
    call = [*arguments(workplace, tmp_path / "out"), f"--scores={path}"]
    assert CliRunner().invoke(app, call).exit_code == 0
    results = read_json(tmp_path / "out" / "quality.json")
    assert (results["num_mixes"], results["labels"]) == (3, "scores.csv")
    before = (tmp_path / "out" / "head.safetensors").stat().st_mtime_ns
    assert CliRunner().invoke(app, call).exit_code == 0
    other = CliRunner().invoke(app, [*call, "--seed=2"])
    assert other.exit_code == 1
    assert "found a regression of quality of another call" in other.output.replace("\n", " ")
    assert (tmp_path / "out" / "head.safetensors").stat().st_mtime_ns == before
    assert CliRunner().invoke(app, [*call, "--seed=-1"]).exit_code == 2
    table(tmp_path, "id0,1", "id7,2")
    failed = CliRunner().invoke(app, call)
    assert failed.exit_code == 1
    assert "unknown track 'id7'" in failed.output
