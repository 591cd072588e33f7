import gc
import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mixprint.collection import shards
from mixprint.collection.remote_shards import index_path
from mixprint.collection.shards import (
    SCHEMA,
    SeparatorFingerprint,
    check_songs,
    done_path,
    is_done,
    list_shards,
    read_index,
    read_row,
    read_segment,
    remove_other_shards,
    shard_name,
    write_shard,
)
from mixprint.errors import AudioError, DataError
from mixprint.stems import STEMS
from mixprint.storage import atomic
from mixprint.storage.claims import ClaimLostError

SEPARATOR = SeparatorFingerprint("scnet", "c" * 64, "d" * 64)
NUM_SAMPLES = 4_410
STEP = 1 / 32_768


def make_stems(seed: int) -> Tensor:
    """Audio that int16 holds exactly, each stem at another level."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(STEMS), 2, NUM_SAMPLES)
    return torch.randint(-9_000, 9_000, shape, generator=generator).float() * STEP


def write(path: Path, segments: list[Tensor], fingerprint: str = "f") -> Path:
    with write_shard(
        path, fingerprint=fingerprint, sample_rate_hz=44_100, separator=SEPARATOR, track_ids=["b"]
    ) as writer:
        for segment, stems_SCT in enumerate(segments):
            writer.write("b", segment, 10.0 * segment, stems_SCT)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / shard_name(0, 2), [])
    write(tmp_path / shard_name(1, 2), [make_stems(0), make_stems(1), make_stems(2)])
    return tmp_path


def test_round_trip_to_the_bit(folder: Path) -> None:
    index = read_index(folder)
    assert [(ref.track_id, ref.segment, ref.start_s) for ref in index] == [
        ("b", 0, 0.0),
        ("b", 1, 10.0),
        ("b", 2, 20.0),
    ]
    for seed, reference in enumerate(index):
        stems_SCT = read_segment(reference)
        assert stems_SCT.dtype == torch.float32
        assert torch.equal(stems_SCT, make_stems(seed))
        assert read_row(reference) == {
            "track_id": "b",
            "segment": seed,
            "start_s": 10.0 * seed,
            "sample_rate_hz": 44_100,
            "gain": 1.0,
            "separator_model": "scnet",
            "separator_checkpoint_sha256": "c" * 64,
            "separator_code_version": "d" * 64,
        }


def test_asked_stems_in_asked_order(folder: Path) -> None:
    stems_SCT = read_segment(read_index(folder)[1], ("other", "vocals"))
    assert torch.equal(stems_SCT, make_stems(1)[[3, 0]])
    with pytest.raises(ValueError, match="guitar"):
        read_segment(read_index(folder)[1], ("guitar",))


def test_columns_are_int16_interleaved_and_a_row_group_is_a_row(folder: Path) -> None:
    file = pq.ParquetFile(folder / shard_name(1, 2))
    assert file.metadata.num_row_groups == file.metadata.num_rows == 3
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {columns[stem].compression for stem in STEMS} == {"ZSTD"}
    assert columns.keys() == set(SCHEMA.names)
    pcm = np.frombuffer(file.read_row_group(0).column("bass")[0].as_py(), "<i2")
    bass_CT = make_stems(0)[STEMS.index("bass")]
    assert pcm[0] * STEP == bass_CT[0, 0]
    assert pcm[1] * STEP == bass_CT[1, 0]
    assert pcm[2] * STEP == bass_CT[0, 1]


def test_what_exceeds_full_scale_is_scaled_and_comes_back(tmp_path: Path) -> None:
    stems_SCT = make_stems(0)
    stems_SCT[2, 1, 7] = -2.5
    write(tmp_path / shard_name(0, 1), [stems_SCT])
    (reference,) = read_index(tmp_path)
    assert read_row(reference)["gain"] == pytest.approx(32_767 / 32_768 / 2.5)
    read_SCT = read_segment(reference)
    assert (read_SCT - stems_SCT).abs().max() <= 2.5 * STEP * 0.51
    assert read_SCT[2, 1, 7] == pytest.approx(-2.5)


@pytest.mark.parametrize(("sample", "gain"), [(-1.0, 1.0), (32_767 * STEP, 1.0), (1.0, 1 - STEP)])
def test_gain_at_the_edges_of_int16(tmp_path: Path, sample: float, gain: float) -> None:
    stems_SCT = torch.full((4, 2, 10), sample)
    write(tmp_path / shard_name(0, 1), [stems_SCT])
    (reference,) = read_index(tmp_path)
    assert read_row(reference)["gain"] == gain
    assert torch.allclose(read_segment(reference), stems_SCT)


def test_one_stem_is_readable_without_the_rest(folder: Path) -> None:
    """All other stems and segments are overwritten with rubbish: nobody notices."""
    path = folder / shard_name(1, 2)
    metadata = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    num_kept = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            if group == 1 and column.path_in_schema in ("drums", "gain"):
                num_kept += column.total_compressed_size
                continue
            start = column.data_page_offset
            content[start : start + column.total_compressed_size] = (
                b"\xff" * column.total_compressed_size
            )
    assert num_kept < 0.1 * len(content)
    references = read_index(folder)
    path.write_bytes(content)
    assert torch.equal(read_segment(references[1], ("drums",)), make_stems(1)[[2]])
    with pytest.raises(DataError, match="row group 1"):
        read_segment(references[1], ("bass",))
    with pytest.raises(DataError, match="row group 0"):
        read_segment(references[0], ("drums",))


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    references = read_index(folder)
    column = pq.read_metadata(path).row_group(0).column(SCHEMA.get_field_index("bass"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        read_segment(references[0], ("bass",))


def test_a_shard_with_fewer_rows_than_its_marker_says_is_refused(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    shorter = write(folder.with_name("other") / shard_name(1, 2), [make_stems(0)])
    path.write_bytes(shorter.read_bytes())

    with pytest.raises(DataError, match=f"{path.name}: expected .* bytes as its marker says"):
        read_index(folder)

    values = json.loads(done_path(path).read_text()) | {"num_bytes": path.stat().st_size}
    done_path(path).write_text(json.dumps(values))
    index_path(path).unlink()
    with pytest.raises(DataError, match=f"{path.name}: expected 3 segments .*, found 1"):
        read_index(folder)


@pytest.mark.parametrize("damage", ["missing", "flipped", "of_another_shard"])
def test_without_its_index_a_shard_is_listed_all_the_same(folder: Path, damage: str) -> None:
    index = index_path(folder / shard_name(1, 2))
    expected = read_index(folder)
    if damage == "missing":
        index.unlink()
    elif damage == "flipped":
        content = bytearray(index.read_bytes())
        content[40] ^= 1
        index.write_bytes(content)
    else:
        index.write_bytes(index_path(folder / shard_name(0, 2)).read_bytes())
    assert read_index(folder) == expected


def test_listing_segments_opens_no_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_index(folder)
    monkeypatch.setattr(shards, "_open", None)
    assert read_index(folder) == expected


def test_a_footer_is_freed_without_the_cyclic_collector(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    shards._footer.cache_clear()
    gc.collect()
    before = pa.total_allocated_bytes()
    gc.disable()
    try:
        metadata = shards._open(path).metadata
        kept = weakref.ref(metadata)
        shards._footer.cache_clear()
        del metadata
        assert kept() is None, "a cycle keeps it"
    finally:
        gc.enable()
    assert pa.total_allocated_bytes() <= before


def test_a_song_that_is_rejected_halfway_leaves_no_row(tmp_path: Path) -> None:
    path, other = (tmp_path / name / shard_name(0, 1) for name in ("a", "b"))
    with write_shard(
        path, fingerprint="f", sample_rate_hz=44_100, separator=SEPARATOR, track_ids=["b", "c"]
    ) as writer:
        writer.write("b", 0, 0.0, make_stems(0))
        writer.write("c", 0, 0.0, make_stems(1))
        writer.reject("c", AudioError("not_finite", "c.wav: expected finite stems, found NaN"))
        writer.write("d", 0, 0.0, make_stems(2))
    with write_shard(
        other, fingerprint="f", sample_rate_hz=44_100, separator=SEPARATOR, track_ids=["b"]
    ) as writer:
        writer.write("b", 0, 0.0, make_stems(0))
        writer.write("d", 0, 0.0, make_stems(2))

    assert path.read_bytes() == other.read_bytes(), "as if it had never been there"
    assert [reference.track_id for reference in read_index(path.parent)] == ["b", "d"]
    assert read_segment(read_index(path.parent)[1]).equal(make_stems(2))
    marker = json.loads(done_path(path).read_text())
    assert marker["rejects"] == {
        "c": {"reason": "not_finite", "detail": "c.wav: expected finite stems, found NaN"}
    }
    assert (marker["num_segments"], marker["track_ids"]) == (2, ["b", "c"])
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        p.name for p in other.parent.iterdir()
    )


def test_a_rewritten_shard_is_read_anew(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    assert len(read_index(folder)) == 3
    write(path, [make_stems(5)])
    (reference,) = read_index(folder)
    assert torch.equal(read_segment(reference), make_stems(5))


def test_done_only_with_marker_same_fingerprint_and_same_size(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    assert is_done(path, "f")
    assert not is_done(path, "g")
    assert json.loads(done_path(path).read_text()) == {
        "fingerprint": "f",
        "num_bytes": path.stat().st_size,
        "num_segments": 3,
        "recipe": "",
        "reports": {},
        "track_ids": ["b"],
    }
    marker = done_path(path).read_text()
    done_path(path).write_text(marker[:20])
    assert not is_done(path, "f")
    done_path(path).write_text("[]")
    assert not is_done(path, "f")
    done_path(path).write_text(marker)
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_done(path, "f")
    path.unlink()
    assert not is_done(path, "f")


def test_a_step_that_dies_leaves_the_old_shard_and_its_marker(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def die_halfway() -> None:
        with write_shard(
            path, fingerprint="g", sample_rate_hz=44_100, separator=SEPARATOR
        ) as writer:
            writer.write("b", 0, 0.0, make_stems(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die_halfway()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert is_done(path, "f")
    assert not is_done(path, "g")


def test_a_step_that_dies_between_shard_and_marker_leaves_no_marker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / shard_name(1, 2)
    monkeypatch.setattr("mixprint.collection.shards.write_json", die)
    with pytest.raises(KeyboardInterrupt):
        write(path, [])
    assert not is_done(path, "f")
    with pytest.raises(DataError, match="no done marker"):
        list_shards(folder)


def die(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_first", [True, False], ids=["no old marker", "an old marker"])
def test_a_worker_that_wakes_late_leaves_the_marker_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    """It is suspended after its last look at the claim, just before it removes the old marker."""
    path = tmp_path / shard_name(0, 1)
    if not is_first:
        write(path, [])
    remove_exactly = atomic.remove_exactly

    def suspended(*arguments: Any) -> bool:
        monkeypatch.setattr("mixprint.collection.shards.remove_exactly", remove_exactly)
        with write_shard(
            path, fingerprint="new", sample_rate_hz=44_100, separator=SEPARATOR
        ) as writer:
            writer.write("b", 0, 0.0, make_stems(9))
        return remove_exactly(*arguments)

    monkeypatch.setattr("mixprint.collection.shards.remove_exactly", suspended)
    with pytest.raises(ClaimLostError, match="another worker was faster"):
        write(path, [make_stems(0)])
    assert is_done(path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        path.name,
        done_path(path).name,
        index_path(path).name,
    ]


def test_who_has_lost_a_shard_publishes_nothing(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def check() -> None:
        raise ClaimLostError("taken over")

    def publish_late() -> None:
        with write_shard(
            path, fingerprint="g", sample_rate_hz=44_100, separator=SEPARATOR, check=check
        ):
            pass

    with pytest.raises(ClaimLostError):
        publish_late()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_what_was_measured_on_a_song_is_in_the_marker(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0, 1)
    with write_shard(path, fingerprint="g", sample_rate_hz=44_100, separator=SEPARATOR) as writer:
        writer.report("b", {"null_depth_db": -31.5, "clipped_samples": 2})
    reports = json.loads(done_path(path).read_text())["reports"]
    assert reports == {"b": {"null_depth_db": -31.5, "clipped_samples": 2}}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{name}.parquet", [make_stems(0)]) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_sets_must_be_whole_and_alone(folder: Path) -> None:
    assert [path.name for path in list_shards(folder)] == [shard_name(0, 2), shard_name(1, 2)]
    write(folder / shard_name(0, 3), [])
    with pytest.raises(DataError, match=r"\[2, 3\]"):
        list_shards(folder)
    assert [path.name for path in remove_other_shards(folder, 2)] == [shard_name(0, 3)]
    assert len(list_shards(folder)) == 2
    (folder / shard_name(0, 2)).unlink()
    with pytest.raises(DataError, match=shard_name(0, 2)):
        list_shards(folder)
    with pytest.raises(DataError, match="expected one set"):
        list_shards(folder / "nowhere")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0, 1)
    write(path, [])
    pq.write_table(pa.table({"track_id": ["b"]}), path)
    with pytest.raises(DataError, match="track_id"):
        read_index(tmp_path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=path.name):
        read_index(tmp_path)


def test_writer_refuses(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0, 1)
    with pytest.raises(ValueError, match=r"\(4, 2, T\)"):
        write(path, [torch.zeros(3, 2, 10)])
    with pytest.raises(DataError, match="track b, segment 0"):
        write(path, [torch.full((4, 2, 10), float("nan"))])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="8 of 8"):
        shard_name(8, 8)


def with_values(path: Path, column: str, values: list[object]) -> None:
    """Write a finished shard again with other values in a column, as if it were made so."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    changed = pa.array(values, table.schema.field(column).type)
    table = table.set_column(place, table.schema.field(column), changed)
    pq.write_table(table, path, row_group_size=1)
    marker = json.loads(done_path(path).read_text())
    done_path(path).write_text(json.dumps(marker | {"num_bytes": path.stat().st_size}))
    index_path(path).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("gain", 0.0, "expected a gain above 0 and at most 1, found 0"),
        ("gain", -1.0, "expected a gain above 0 and at most 1, found -1"),
        ("gain", float("nan"), "found nan"),
        ("gain", float("inf"), "found inf"),
        ("gain", 2.0, "found 2"),
        ("bass", bytes(4 * NUM_SAMPLES - 1), "expected stems of one length in frames of 4 bytes"),
        ("bass", bytes(4 * NUM_SAMPLES - 4), "expected stems of one length"),
        ("bass", b"", "expected stems of one length"),
    ],
)
def test_an_odd_row_of_a_shard_is_told_by_name(
    folder: Path, column: str, value: object, message: str
) -> None:
    path = folder / shard_name(1, 2)
    reference = read_index(folder)[1]
    good = pq.read_table(path).column(column).to_pylist()
    with_values(path, column, [good[0], value, good[2]])
    where = rf"{path.name}: row group 1, song b: .*{re.escape(message)}"
    with pytest.raises(DataError, match=where):
        read_segment(reference)


def test_segments_of_another_rate_and_of_unknown_songs_are_told_by_name(folder: Path) -> None:
    path = folder / shard_name(1, 2)
    with pytest.raises(DataError, match=rf"{path.name}: row group 0: .*found 'b'"):
        check_songs(read_index(folder), {"a"})
    check_songs(read_index(folder), {"b"})
    with_values(path, "sample_rate_hz", [44_100, 44_100, 48_000])
    with pytest.raises(DataError, match=r"row group 2, song b: .*44100 Hz as .* found 48000 Hz"):
        read_index(folder)
