"""Examples, measured once and kept beside the states of a training.

    <folder>/00000.safetensors        descriptors, embeddings and targets of 32 examples
    <folder>/audio-00000.safetensors  16-bit audio of one example, of those that are heard later

Each example is drawn from its number, so what was lost is measured again, and equal.

Shape suffixes: N track, S stem, R part of the reference, C channel, T sample, D number of a
descriptor, E embedding, K field, G gate; 2 is mid and side.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.console.mixing import as_stereo
from mixprint.console.settings import Settings
from mixprint.controller.descriptors import describe_audio
from mixprint.controller.heads import StripTarget
from mixprint.controller.inputs import describe_reference, describe_tracks, role_numbers
from mixprint.controller.measures import heard
from mixprint.controller.roles import ROLES
from mixprint.controller.targets import TRIM, Targets
from mixprint.encoder.checkpoint import Encoder
from mixprint.encoder.settings import MIN_SEGMENT_S
from mixprint.errors import CheckpointError, TrainingError
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import load_batches
from mixprint.training.ranks import barrier, rank_and_world

log = logging.getLogger("mixprint.controller")

PER_FILE = 32  # examples
_SEPARATOR = "."


@dataclass(frozen=True)
class DrawnExample:
    """An example: dry tracks, how they are mixed, and a reference that is mixed alike.

    Attributes:
        tracks_NCT: dry, full scale at +-1, at `SAMPLE_RATE_HZ`.
        roles: of the tracks, see `mixprint.controller.roles`.
        settings: how they are mixed; the trims bring them to the working level.
        reference_SCT: stems of other music, mixed alike; their sum is the reference.
    """

    tracks_NCT: Tensor
    roles: Sequence[str]
    settings: Settings
    reference_SCT: Tensor


class Examples(Protocol):
    """Source of examples: each follows from its number alone."""

    def __getitem__(self, number: int) -> DrawnExample:
        """Draw an example."""
        ...


@dataclass(frozen=True)
class MeasuredExample:
    """What is known of an example without its audio.

    Attributes:
        track_ND: descriptors of the tracks at the working level.
        role_N: their roles, from 1 on; 0 where unknown.
        trim_N: what brings them to the working level, dB.
        stem_SD: descriptors of the reference's stems.
        mid_side_2D: descriptors of its mid and side.
        embedding_E: its embedding; of no numbers where there is none.
        track_NK: positions of the true settings.
        track_gate_NG: their gates.
        track_weight_NK: how much they are heard.
        master_K: the same of the master: positions,
        master_gate_G: gates,
        master_weight_K: and weights.
    """

    track_ND: Tensor
    role_N: Tensor
    trim_N: Tensor
    stem_SD: Tensor
    mid_side_2D: Tensor
    embedding_E: Tensor
    track_NK: Tensor
    track_gate_NG: Tensor
    track_weight_NK: Tensor
    master_K: Tensor
    master_gate_G: Tensor
    master_weight_K: Tensor

    @property
    def targets(self) -> Targets:
        """The true settings."""
        return Targets(self.track_NK, self.track_gate_NG, self.master_K, self.master_gate_G)

    @property
    def track(self) -> StripTarget:
        """The truth of the tracks."""
        return StripTarget(self.track_NK, self.track_gate_NG, self.track_weight_NK)

    @property
    def master(self) -> StripTarget:
        """The truth of the master."""
        return StripTarget(
            self.master_K[None], self.master_gate_G[None], self.master_weight_K[None]
        )


class Audio(NamedTuple):
    """Audio of an example: dry tracks_NCT and reference_CT, float32."""

    tracks_NCT: Tensor
    reference_CT: Tensor


_NAMES = tuple(each.name for each in fields(MeasuredExample))


@torch.no_grad()
def measure_example(
    example: DrawnExample, encoder: Encoder | None, device: torch.device
) -> MeasuredExample:
    """Describe an example.

    Args:
        example: drawn.
        encoder: embeds the reference; None: no embedding.
        device: where to compute.
    """
    strips = example.settings.tracks.values()
    trim_db = [strip[TRIM] for strip in strips]
    tracks_NCT = as_stereo(example.tracks_NCT).to(device)
    stems_SCT = example.reference_SCT.to(device)
    embedding_E = torch.zeros(0)
    if encoder is not None and stems_SCT.shape[-1] >= MIN_SEGMENT_S * SAMPLE_RATE_HZ:
        embedding_E = encoder.embed(stems_SCT[None], SAMPLE_RATE_HZ)[0]
    targets = Targets.of(example.settings)
    weight_NK, weight_K = heard(tracks_NCT, example.settings, SAMPLE_RATE_HZ)
    found = MeasuredExample(
        track_ND=describe_tracks(tracks_NCT, trim_db, SAMPLE_RATE_HZ),
        role_N=role_numbers(example.roles, ROLES),
        trim_N=torch.tensor(trim_db),
        stem_SD=describe_audio(stems_SCT, SAMPLE_RATE_HZ),
        mid_side_2D=describe_reference(stems_SCT.sum(dim=0), SAMPLE_RATE_HZ),
        embedding_E=embedding_E,
        track_NK=targets.track_NK,
        track_gate_NG=targets.track_gate_NG,
        track_weight_NK=weight_NK,
        master_K=targets.master_K,
        master_gate_G=targets.master_gate_G,
        master_weight_K=weight_K,
    )
    return MeasuredExample(*(getattr(found, name).cpu() for name in _NAMES))


class MeasuredExamples:
    """All measured examples of a split, and the audio of some.

    Attributes:
        items: in the order of their numbers.
    """

    def __init__(self, items: Sequence[MeasuredExample], folder: Path) -> None:
        """Take what `measure_examples` has read."""
        self.items, self._folder = items, folder

    def audio(self, number: int) -> Audio:
        """Read the audio of an example.

        Raises:
            TrainingError: it cannot be read.
        """
        path = _audio_path(self._folder, number)
        tensors = _read(path, Audio._fields)
        return Audio(*(tensors[name].float() for name in Audio._fields))


class _Drawn(NamedTuple):
    measured: MeasuredExample
    audio: Audio | None


class _ExampleReader(Dataset[_Drawn]):
    """Draws and measures examples in readers: item n is the example n."""

    def __init__(self, source: Examples, encoder: Encoder | None, num_audio: int) -> None:
        self._source, self._encoder, self._num_audio = source, encoder, num_audio

    def __getitem__(self, number: int) -> _Drawn:
        example = self._source[number]
        measured = measure_example(example, self._encoder, torch.device("cpu"))
        if number >= self._num_audio:
            return _Drawn(measured, None)
        tracks_NCT, reference_CT = as_stereo(example.tracks_NCT), example.reference_SCT.sum(dim=0)
        return _Drawn(measured, Audio(tracks_NCT.half(), reference_CT.half()))


def measure_examples(
    source: Examples,
    num_examples: int,
    *,
    num_audio: int,
    encoder: Encoder | None,
    folder: Path,
    num_workers: int,
) -> MeasuredExamples:
    """Draw and measure examples, or read what was measured before.

    The work is divided over the ranks by files of some examples each; all ranks call it.

    Args:
        source: of the examples.
        num_examples: the first so many.
        num_audio: of the first so many the audio is kept.
        encoder: embeds the references, on the CPU; None: no embeddings.
        folder: of the files; for this source and encoder only.
        num_workers: readers of this rank.

    Raises:
        TrainingError: a file cannot be read.
    """
    rank, world_size = rank_and_world()
    parts = [
        range(first, min(first + PER_FILE, num_examples))
        for first in range(0, num_examples, PER_FILE)
    ]
    paths = [folder / f"{number:05d}.safetensors" for number in range(len(parts))]
    missing = [
        number
        for number, path in enumerate(paths)
        if not path.exists() or not all(_has_audio(folder, n, num_audio) for n in parts[number])
    ]
    own = missing[rank::world_size]
    if own:
        numbers = [example for number in own for example in parts[number]]
        drawn = load_batches(
            _ExampleReader(source, encoder, num_audio),
            numbers,
            num_workers=num_workers,
            pinned=False,
        )
        with Progress(log, "measured", total=len(numbers), unit="examples") as shown:
            for number in own:
                tensors: dict[str, Tensor] = {}
                for example in parts[number]:
                    measured, audio = next(drawn)
                    for name in _NAMES:
                        tensors[f"{example}{_SEPARATOR}{name}"] = getattr(measured, name)
                    if audio is not None:
                        write_tensors(_audio_path(folder, example), audio._asdict())
                    shown.advance()
                write_tensors(paths[number], tensors)
    barrier()
    items = []
    for path, part in zip(paths, parts, strict=True):
        names = [f"{example}{_SEPARATOR}{name}" for example in part for name in _NAMES]
        found = _read(path, names)
        for example in part:
            values = {name: found[f"{example}{_SEPARATOR}{name}"] for name in _NAMES}
            items.append(MeasuredExample(**values))
    return MeasuredExamples(items, folder)


def _audio_path(folder: Path, number: int) -> Path:
    return folder / f"audio-{number:05d}.safetensors"


def _has_audio(folder: Path, number: int, num_audio: int) -> bool:
    return number >= num_audio or _audio_path(folder, number).exists()


def _read(path: Path, names: Sequence[str]) -> Mapping[str, Tensor]:
    try:
        tensors = read_tensors(path)
        if not tensors.keys() >= set(names):
            raise CheckpointError(f"{path}: expected {names[0]} and others in it")
    except CheckpointError as error:
        raise TrainingError(f"{path}: expected what was measured, found: {error}") from error
    return tensors
