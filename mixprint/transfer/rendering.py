"""The audio that a transfer writes, in two passes over the song.

The first pass reads the input: it writes the original and its stems, and as a draft what the effect
makes of them, and measures both. How much louder the output is to be depends on all of it; so the
second pass reads the draft, brings it to its loudness, and measures what it writes.

Shape suffixes: S stem, C channel, T sample; N a mixture and its stems.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixprint.audio.levels import MAX_TRUE_PEAK_DBTP
from mixprint.audio.streamed_levels import LevelMeter, MixLevels
from mixprint.dsp.decibels import amplitude
from mixprint.errors import DataError
from mixprint.separation.nulltest import NullTest
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import TEMPORARY_PREFIX
from mixprint.transfer.effect import Effect, Running, apply_to_blocks
from mixprint.transfer.excerpts import Segment
from mixprint.transfer.layout import (
    INPUT_NAME,
    INPUT_STEMS,
    MIXTURE_NAME,
    OUTPUT_NAME,
    TRANSFERRED_STEMS,
)
from mixprint.transfer.report.artefacts import SILENCE_FRAME_SAMPLES, Silence, count_clipped
from mixprint.transfer.settings import Controls
from mixprint.transfer.stem_store import Block, float_file, read_blocks, stem_files

# What is handed from stage to stage: whole frames in which silence is looked for.
BLOCK_SAMPLES = 64 * SILENCE_FRAME_SAMPLES


@dataclass(frozen=True)
class Rendered:
    """Measures of an output that was written.

    Attributes:
        values: what metrics.json says under `output`.
        gain: amplitude that output and stems were multiplied by.
        num_clipped: samples at or beyond full scale.
        in_silence: see `Silence.values`.
    """

    values: dict[str, Any]
    gain: float
    num_clipped: int
    in_silence: dict[str, float | None]


@dataclass(frozen=True)
class _Draft:
    """Measures of the first pass."""

    num_samples: int
    source: MixLevels
    processed: MixLevels
    null_depth_db: float
    in_silence: dict[str, float | None]


def write_output(
    song: Segment,
    out_dir: Path,
    controls: Controls,
    effect: Effect,
    *,
    target_lufs: float,
    device: torch.device | str,
    notes: list[str],
) -> Rendered:
    """Write the input and what the effect makes of it.

    Args:
        song: the input.
        out_dir: the folder.
        controls: what is made of the effect.
        effect: on `device`.
        target_lufs: loudness of the style.
        device: where it is computed.
        notes: receives sentences for people.

    Raises:
        AudioError, DataError: the song cannot be read, or the files not be written.
    """
    draft = out_dir / f"{TEMPORARY_PREFIX}{TRANSFERRED_STEMS}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        found = _write_draft(song, out_dir, draft, controls, effect, device=device, notes=notes)
        loudness_gain_db, peak_gain_db = controls.gains_db(
            found.source, found.processed, target_lufs
        )
        if peak_gain_db < 0:
            notes.append(
                f"output lowered by {-peak_gain_db:.2f} dB to keep its true peak at "
                f"{MAX_TRUE_PEAK_DBTP:g} dBTP"
            )
        gain_db = loudness_gain_db + peak_gain_db
        gain = amplitude(gain_db)
        written, num_clipped = _scale_draft(draft, out_dir, gain, found.num_samples)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    values = {
        "loudness": controls.loudness,
        "gain_db": gain_db,
        "loudness_gain_db": loudness_gain_db,
        "peak_gain_db": peak_gain_db,
        **asdict(written),
        "input_loudness_lufs": found.source.loudness_lufs,
        "null_depth_db": found.null_depth_db,
    }
    return Rendered(values, gain, num_clipped, found.in_silence)


def write_target(excerpt: Segment, out_dir: Path, number: int) -> None:
    """Write what was heard of the target song of this number, from 1 on."""
    name = "target" if number == 1 else f"target_{number}"
    num_samples = excerpt.audio_CT.shape[-1]
    with _song_files(
        out_dir / f"{name}_original.wav", out_dir / f"{name}_stems", num_samples
    ) as add:
        add(excerpt.audio_CT, excerpt.stems_SCT)


def _write_draft(
    song: Segment,
    out_dir: Path,
    draft: Path,
    controls: Controls,
    effect: Effect,
    *,
    device: torch.device | str,
    notes: list[str],
) -> _Draft:
    """Write the original, and the output before its gain: the first pass."""
    running = Running(sample_rate_hz=SAMPLE_RATE_HZ, device=device, notes=notes)
    parts = _parts(song, controls)
    num_samples = sum(length for length, _ in parts)
    # The effect needs context, so it is ahead of what is compared with it.
    streams = [tee(read()) for _, read in parts]
    original = (
        torch.cat((audio_CT.unsqueeze(0), stems_SCT))
        for audio_CT, stems_SCT in chain.from_iterable(stream for stream, _ in streams)
    )
    processed = chain.from_iterable(
        apply_to_blocks(
            effect,
            (stems_SCT for _, stems_SCT in ahead),
            controls.amounts,
            running,
        )
        for _, ahead in streams
    )
    pairs = zip(regular_blocks(original), regular_blocks(processed), strict=True)
    null_test, silence = NullTest(), Silence()
    source, changed = LevelMeter(), LevelMeter()
    with (
        _song_files(out_dir / INPUT_NAME, out_dir / INPUT_STEMS, num_samples) as add_original,
        _song_files(draft / MIXTURE_NAME, draft, num_samples) as add_changed,
    ):
        for original_NCT, output_SCT in pairs:
            audio_CT, stems_SCT = original_NCT[0], original_NCT[1:]
            add_original(audio_CT, stems_SCT)
            null_test.add(stems_SCT, audio_CT)
            source.add(audio_CT)
            output_CT = _changed(audio_CT, stems_SCT, output_SCT)
            add_changed(output_CT, output_SCT)
            changed.add(output_CT)
            silence.add(audio_CT, output_CT)
    return _Draft(
        num_samples, source.finish(), changed.finish(), null_test.depth_db, silence.values()
    )


def _scale_draft(
    draft: Path, out_dir: Path, gain: float, num_samples: int
) -> tuple[MixLevels, int]:
    """Write the output with its gain: the second pass.

    Returns:
        its levels, and how many samples clip.
    """
    meter, num_clipped = LevelMeter(), 0
    with _song_files(out_dir / OUTPUT_NAME, out_dir / TRANSFERRED_STEMS, num_samples) as add:
        for draft_CT, stems_SCT in read_blocks(draft / MIXTURE_NAME, draft):
            audio_CT = gain * draft_CT
            add(audio_CT, gain * stems_SCT)
            meter.add(audio_CT)
            num_clipped += count_clipped(audio_CT)
    return meter.finish(), num_clipped


def _changed(audio_CT: Tensor, stems_SCT: Tensor, output_SCT: Tensor) -> Tensor:
    """Lay what was changed of each stem over the input.

    The difference is formed per stem, so that an untouched stem leaves the input as it is to the
    bit, whatever the stems' sum lacks of it.
    """
    change_CT = (output_SCT.double() - stems_SCT.double()).sum(0)
    return (audio_CT.double() + change_CT).float()


def _parts(song: Segment, controls: Controls) -> list[tuple[int, Callable[[], Iterable[Block]]]]:
    """Return what is written of a song, part by part: its length, and what reads it."""
    if controls.apply_to == "song":
        if song.whole is None:
            raise DataError(f"{song.name}: expected a song that is separated as a whole")
        return [(song.whole.num_samples, song.whole.blocks)]
    return [(piece[0].shape[-1], partial(list, [piece])) for piece in song.pieces()]


def regular_blocks(blocks: Iterable[Tensor], num_samples: int = BLOCK_SAMPLES) -> Iterator[Tensor]:
    """Cut blocks anew, so that two streams of other blocks can be compared.

    Args:
        blocks: (..., T), of any lengths.
        num_samples: length of those that are given, but for the last.
    """
    held: Tensor | None = None
    for block in blocks:
        held = block if held is None else torch.cat((held, block), dim=-1)
        while held.shape[-1] >= num_samples:
            yield held[..., :num_samples]
            held = held[..., num_samples:]
    if held is not None and held.shape[-1]:
        yield held


@contextmanager
def _song_files(
    mixture_path: Path, stems_folder: Path, num_samples: int
) -> Iterator[Callable[[Tensor, Tensor], None]]:
    """Open the files of a song; yields what takes the next audio_CT and stems_SCT."""
    with (
        float_file(mixture_path, num_samples) as mixture,
        stem_files(stems_folder, num_samples) as add_stems,
    ):

        def add(audio_CT: Tensor, stems_SCT: Tensor) -> None:
            mixture.add(audio_CT)
            add_stems(stems_SCT)

        yield add
