"""Unpaired references: excerpts of finished mixes of which no dry tracks are known, measured once.

Songs lie in a folder or in a bucket, in subfolders too. One whose folder has its four stems, called
as in `STEMS`, is known by these and by its embedding, beside a file `mixture` if there is one, else
the sum of the stems is the mix. Of all others mid and side are known. What cannot be used is listed
with its reason and left out.

    <folder>/left_out.json              what cannot be used, with reasons
    <folder>/<song>.json                what was found of a song, or why it was refused
    <folder>/<song>.safetensors         descriptors and embeddings of its excerpts
    <folder>/<song>-<n>.safetensors     16-bit audio of an excerpt

A song that changes, and other parameters, give other names: what was measured is never out of
date.

Shape suffixes: N file of a song, S stem, C channel, T sample, D number of a descriptor, E
embedding; 2 is mid and side.
"""

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixprint.audio.inspection import InspectionRules, inspect_audio
from mixprint.checkpoints.torchfile import write_tensors
from mixprint.collection.locations import Collection, collection
from mixprint.collection.sources import MIXTURE, Refusal, find_songs
from mixprint.console.tracks import read_in_step
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.inputs import describe_reference, embed_stems
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import AudioError, DataError
from mixprint.features.descriptors import NUM_DESCRIPTORS
from mixprint.features.schema import MIN_DURATION_S
from mixprint.fingerprint import code_version, fingerprint
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.bucket import is_bucket
from mixprint.text import first_of, shown
from mixprint.training.measured import own_share, read_measured
from mixprint.training.ranks import barrier, rank_and_world

log = logging.getLogger("mixprint.controller")

LEFT_OUT_FILE = "left_out.json"
# An excerpt whose mix is quieter says nothing of how it is mixed.
_SOUNDING_DBFS = -50.0
_RULES = InspectionRules(
    min_duration_s=MIN_DURATION_S,
    max_duration_s=math.inf,
    min_level_dbfs=-60.0,
    max_channel_difference_db=60.0,
    max_clipped_fraction=0.05,
)
_KEY_DIGITS = 16
_FULL_NAME = "{}.{}"


class MeasuredReference(NamedTuple):
    """Reference as it is described.

    Attributes:
        stem_SD: descriptors of the stems; of none where they are not known.
        mid_side_2D: descriptors of mid and side; of none where there is no reference.
        embedding_E: its embedding; of no numbers where there is none.
    """

    stem_SD: Tensor
    mid_side_2D: Tensor
    embedding_E: Tensor


@torch.no_grad()
def measure_reference(
    mix_CT: Tensor, stems_SCT: Tensor | None, encoder: Encoder | None
) -> MeasuredReference:
    """Describe a mix on the device of its audio.

    Args:
        mix_CT: the mix, at 44.1 kHz.
        stems_SCT: its stems; None: they are not known.
        encoder: embeds the stems; None: no embedding.
    """
    stem_SD, embedding_E = torch.zeros(0, NUM_DESCRIPTORS), None
    if stems_SCT is not None:
        stem_SD = describe_audio(stems_SCT, SAMPLE_RATE_HZ)
        if encoder is not None:
            embedding_E = embed_stems(encoder, stems_SCT, SAMPLE_RATE_HZ)
    none_0 = torch.zeros(0)
    return MeasuredReference(
        stem_SD,
        describe_reference(mix_CT, SAMPLE_RATE_HZ),
        none_0 if embedding_E is None else embedding_E,
    )


@dataclass(frozen=True)
class FinishedMix:
    """Song as its files.

    Attributes:
        name: what a person calls it.
        mix: the mix; None: the sum of its stems.
        stems: in the order of `STEMS`; none where they are not known.
    """

    name: str
    mix: Path | None
    stems: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the song, the mix first."""
        return (*(() if self.mix is None else (self.mix,)), *self.stems)


class MeasuredReferences:
    """Excerpts of finished mixes, measured.

    Attributes:
        items: excerpts, in the order of their numbers.
        refused: songs and files that were left out: name, reason and detail.
        fingerprint: of all that they follow from.
    """

    def __init__(
        self,
        items: Sequence[MeasuredReference],
        paths: Sequence[Path],
        refused: Sequence[Mapping[str, str]],
        fingerprint_: str,
    ) -> None:
        """Take what `measure_references` has read."""
        self.items, self._paths = items, paths
        self.refused, self.fingerprint = refused, fingerprint_

    def audio(self, number: int) -> Tensor:
        """Read the audio of an excerpt: mix_CT, float32.

        Raises:
            TrainingError: it cannot be read.
        """
        return read_measured(self._paths[number], ["mix_CT"])["mix_CT"].float()


def find_mixes(folder: Path) -> tuple[list[FinishedMix], list[Refusal]]:
    """Find the songs of a folder; no audio is decoded.

    A folder with two or more files that are called as `mixture` or a stem is that of one song. If
    not all four stems are there, they are refused, and the mixture is taken by itself.
    """
    candidates, refusals = find_songs("folder", [folder])
    in_folder: dict[Path, list[Path]] = defaultdict(list)
    for candidate in candidates:
        in_folder[candidate.path.parent].append(candidate.path)
    songs = []
    for parent, paths in sorted(in_folder.items()):
        named = {path.stem.casefold(): path for path in paths}
        parts = {name: named[name] for name in (MIXTURE, *STEMS) if name in named}
        stems = {name: parts[name] for name in STEMS if name in parts}
        if len(parts) > 1:
            paths = [path for path in paths if path.stem.casefold() not in stems]
        if len(stems) == len(STEMS):
            songs.append(FinishedMix(parent.name, parts.get(MIXTURE), tuple(stems.values())))
            paths = [path for path in paths if path.stem.casefold() != MIXTURE]
        elif len(parts) > 1:
            missing = ", ".join(name for name in STEMS if name not in stems)
            detail = f"{shown(parent)}: expected {', '.join(STEMS)}, missing are {missing}"
            refusals += [Refusal(path, "missing_stems", detail) for path in stems.values()]
        songs += [FinishedMix(path.stem, path) for path in paths]
    return songs, refusals


def measure_references(
    location: str,
    *,
    excerpt_s: float,
    num_excerpts: int,
    encoder: Encoder | None,
    folder: Path,
    device: torch.device,
) -> MeasuredReferences:
    """Measure finished mixes, or read what was measured before.

    The songs are divided over the ranks; all ranks call it.

    Args:
        location: a folder, or ``gs://bucket/prefix``.
        excerpt_s: length of an excerpt; a song that is shorter, but at least 3 s long, is one.
        num_excerpts: of a song at most, spread over it.
        encoder: on the device, embeds stems; None: no embeddings.
        folder: of the files.
        device: where excerpts are described.

    Raises:
        DataError: the location is missing, or there is no mix in it that can be used.
        TrainingError: a file of `folder` cannot be read.
    """
    with collection([location], "folder") as origin:
        (root,) = origin.folders()
        songs, refusals = find_mixes(root)
        made_with = {
            "excerpt_s": excerpt_s,
            "num_excerpts": num_excerpts,
            "encoder": "" if encoder is None else encoder.fingerprint,
            "code": code_version(__name__),
        }
        versions = {str(path): version for path, *version in origin.listing()}
        keys = [_key(song, root, location, versions, made_with) for song in songs]
        missing = [n for n, key in enumerate(keys) if not (folder / f"{key}.json").exists()]
        if own := own_share(missing):
            cutter = _Cutter(origin, round(excerpt_s * SAMPLE_RATE_HZ), num_excerpts)
            with Progress(log, "measured", total=len(own), unit="references") as progress:
                for n in own:
                    _measure(songs[n], keys[n], cutter, encoder, folder, device)
                    progress.advance(1)
        barrier()
        refused = [
            _left_out(origin.told(shown(each.path)), each.reason, origin.told(each.detail))
            for each in refusals
        ]
    return _read(location, keys, folder, refused)


def _key(
    song: FinishedMix,
    root: Path,
    location: str,
    versions: Mapping[str, Sequence[Any]],
    made_with: Mapping[str, Any],
) -> str:
    """Name a song by all that its measures follow from, wherever its folder lies."""
    files = []
    for path in song.files:
        name = path.relative_to(root).as_posix()
        listed = f"{location.rstrip('/')}/{name}" if is_bucket(location) else str(path)
        files.append([name, *versions[listed]])
    return fingerprint({**made_with, "files": files})[:_KEY_DIGITS]


class _Cutter:
    """Cuts excerpts out of songs, in memory that does not grow with their length."""

    def __init__(self, origin: Collection, num_samples: int, most: int) -> None:
        self.origin, self._size, self._most = origin, num_samples, most

    def excerpts(self, song: FinishedMix) -> list[Tensor]:
        """Cut audio_NCT of all files, the mix first.

        Raises:
            AudioError: a file cannot be read, or nothing is long and loud enough.
        """
        with ExitStack() as stack:
            files = [stack.enter_context(self.origin.opened(path)) for path in song.files]
            if song.mix is not None:
                inspect_audio(files[0], _RULES)
            kept = self._windows(read_in_step(files, SAMPLE_RATE_HZ), has_mix=song.mix is not None)
        if not kept:
            raise AudioError(
                "silent",
                f"{song.name}: expected {MIN_DURATION_S:g} s or more that are louder than "
                f"{_SOUNDING_DBFS:g} dBFS, found none",
            )
        places = torch.linspace(0, len(kept) - 1, min(self._most, len(kept))).round().int()
        return [kept[place] for place in places.tolist()]

    def _windows(self, blocks: Iterable[Tensor], *, has_mix: bool) -> list[Tensor]:
        """Cut windows one after another; where they become too many, every second one is kept."""
        kept: list[Tensor] = []
        number, stride, held_NCT = 0, 1, None
        for block_NCT in blocks:
            held_NCT = block_NCT if held_NCT is None else torch.cat([held_NCT, block_NCT], dim=-1)
            while held_NCT.shape[-1] >= self._size:
                window_NCT = held_NCT[..., : self._size]
                held_NCT = held_NCT[..., self._size :]
                if number % stride == 0:
                    kept += _with_mix(window_NCT, has_mix=has_mix)
                number += 1
                if len(kept) > 2 * self._most:
                    kept, stride = kept[::2], 2 * stride
        is_long = held_NCT is not None and held_NCT.shape[-1] >= MIN_DURATION_S * SAMPLE_RATE_HZ
        if number == 0 and held_NCT is not None and is_long:
            kept += _with_mix(held_NCT, has_mix=has_mix)
        return kept


def _with_mix(window_NCT: Tensor, *, has_mix: bool) -> list[Tensor]:
    """Return a window with its mix first; nothing where that is hardly to be heard."""
    if not has_mix:
        window_NCT = torch.cat([window_NCT.sum(dim=0, keepdim=True), window_NCT])
    sounds = float(window_NCT[0].square().mean()) > 10 ** (_SOUNDING_DBFS / 10)
    return [window_NCT.clone()] if sounds else []


def _measure(
    song: FinishedMix,
    key: str,
    cutter: _Cutter,
    encoder: Encoder | None,
    folder: Path,
    device: torch.device,
) -> None:
    """Measure a song and write it; the record last, which says that all is there."""
    record: dict[str, Any] = {"name": song.name, "num_excerpts": 0, "digest": ""}
    try:
        excerpts = cutter.excerpts(song)
    except AudioError as error:
        record |= {"reason": error.reason, "detail": cutter.origin.told(error.detail)}
    else:
        tensors, digest = {}, hashlib.sha256()
        for n, audio_NCT in enumerate(excerpts):
            halves = {"mix_CT": audio_NCT[0].half().contiguous()}
            digest.update(halves["mix_CT"].numpy().data)
            write_tensors(_audio_path(folder, key, n), halves)
            audio_NCT = audio_NCT.to(device)
            stems_SCT = audio_NCT[1:] if song.stems else None
            measured = measure_reference(audio_NCT[0], stems_SCT, encoder)
            for name, value in measured._asdict().items():
                tensors[_FULL_NAME.format(n, name)] = value.cpu().contiguous()
        write_tensors(folder / f"{key}.safetensors", tensors)
        record |= {"num_excerpts": len(excerpts), "digest": digest.hexdigest()}
    write_json(folder / f"{key}.json", record)


def _read(
    location: str, keys: Sequence[str], folder: Path, refused: Sequence[Mapping[str, str]]
) -> MeasuredReferences:
    """Read what was measured, and say what was not; the same music counts once."""
    items, paths, told = [], [], list(refused)
    first: dict[str, str] = {}
    for key in keys:
        record = read_json(folder / f"{key}.json")
        name, digest = record["name"], record["digest"]
        if "reason" in record:
            told.append(_left_out(name, record["reason"], record["detail"]))
            continue
        if digest in first:
            told.append(_left_out(name, "duplicate", f"{name}: same audio as {first[digest]}"))
            continue
        first[digest] = name
        names = [
            _FULL_NAME.format(n, part)
            for n in range(record["num_excerpts"])
            for part in MeasuredReference._fields
        ]
        found = read_measured(folder / f"{key}.safetensors", names)
        for n in range(record["num_excerpts"]):
            values = (found[_FULL_NAME.format(n, part)] for part in MeasuredReference._fields)
            items.append(MeasuredReference(*values))
            paths.append(_audio_path(folder, key, n))
    if rank_and_world()[0] == 0:
        write_json(folder / LEFT_OUT_FILE, told)
        for each in told:
            log.warning("reference left out (%s): %s", each["reason"], each["detail"])
        log.info("references: %d excerpts of %d mixes", len(items), len(first))
    if not items:
        raise DataError(
            f"{shown(Path(location)) if not is_bucket(location) else location}: expected finished "
            f"mixes that can be used, found none; {len(told)} were refused: "
            f"{first_of([each['detail'] for each in told], '; ') or 'no audio'}"
        )
    return MeasuredReferences(items, paths, told, fingerprint(sorted(keys)))


def _left_out(name: str, reason: str, detail: str) -> dict[str, str]:
    return {"name": name, "reason": reason, "detail": detail}


def _audio_path(folder: Path, key: str, number: int) -> Path:
    return folder / f"{key}-{number}.safetensors"
