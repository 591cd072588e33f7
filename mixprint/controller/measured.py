"""Examples, measured once and kept beside the states of a training.

    <folder>/00000.safetensors        descriptors, embeddings and targets of a batch of examples
    <folder>/audio-00000.safetensors  16-bit audio of one example, of those that are heard later

Each batch is drawn from its number, so what was lost is measured again, and equal.

Shape suffixes: N track, M strip of any example, S stem, C channel, T sample, D number of a
descriptor, E embedding, K field, G gate, A number of `Sounds`, R role (in the order of `ROLES`), P
track of the reference; 2 is mid and side, 3 both and their product, in mels M.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.checkpoints.torchfile import write_tensors
from mixprint.console.mixing import Values, stereo_matrix
from mixprint.controller.descriptors import describe_audio, part_powers
from mixprint.controller.examples import Example
from mixprint.controller.heads import StripTarget
from mixprint.controller.inputs import describe_tracks, role_numbers
from mixprint.controller.measures import Weights, heard
from mixprint.controller.references import MeasuredReference, measure_reference
from mixprint.controller.roles import ROLES
from mixprint.controller.targets import TRACK, TRIM, Targets
from mixprint.encoder.checkpoint import Encoder
from mixprint.features.descriptors import NUM_DESCRIPTORS, NUM_MELS
from mixprint.progress import Progress
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.training.loading import load_batches
from mixprint.training.measured import own_share, read_measured
from mixprint.training.ranks import barrier

log = logging.getLogger("mixprint.controller")

# What a pan or a width has turned down further says no more what was there.
_LEAST_GAIN = 0.02


class Source(Protocol):
    """Source of examples, in batches that follow from their numbers alone."""

    @property
    def batch_size(self) -> int:
        """Number of examples of a batch."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of all that the examples follow from."""
        ...

    def recipes(self) -> Dataset[Any]:
        """Return what readers draw: item n is what batch n is made of."""
        ...

    def made(self, recipes: Any, device: torch.device, *, with_truth: bool) -> Sequence[Example]:
        """Make the examples of a batch, with their truth where it is asked for."""
        ...

    def running(self, number: int) -> AbstractContextManager[Callable[[int], None]]:
        """Work ahead from a batch on, and be told which one is reached."""
        ...


@dataclass(frozen=True)
class MeasuredExample:
    """Descriptors, settings and embedding of an example, without its audio.

    Attributes:
        track_ND: descriptors of the tracks at the working level.
        role_N: their roles, from 1 on; 0 where unknown.
        trim_N: what brings them to the working level, dB.
        stem_SD: descriptors of the reference's stems; of none where there is no reference.
        mid_side_2D: descriptors of its mid and side, likewise.
        embedding_E: its embedding; of no numbers where there is none.
        truth_ND: descriptors of the tracks as they shall sound, where the settings that lead there
            are unknown and weigh nothing; else of none.
        track_NK: positions of the true settings.
        track_gate_NG: their gates.
        track_weight_NK: how much they are heard.
        master_K: the same of the master: positions,
        master_gate_G: gates,
        master_weight_K: and weights.
        track_sound_NA: what the weights of the tracks follow from (`Sounds`).
        master_sound_A: what those of the master follow from.
        style_RK: positions of the settings that a track of each role would have; of no roles where
            other tracks cannot be given.
        style_gate_RG: their gates.
        kind: number of the kind of tracks, by the stems that come as one.
        has_true_stems: whether the stems of the reference are true ones, not separated.
        part_P3M: powers of the tracks of the reference (`part_powers`) before width, pan and fader;
            of none where they are not known.
        part_role_P: their roles.
        part_PK: positions of their settings.
    """

    track_ND: Tensor
    role_N: Tensor
    trim_N: Tensor
    stem_SD: Tensor
    mid_side_2D: Tensor
    embedding_E: Tensor
    truth_ND: Tensor
    track_NK: Tensor
    track_gate_NG: Tensor
    track_weight_NK: Tensor
    master_K: Tensor
    master_gate_G: Tensor
    master_weight_K: Tensor
    track_sound_NA: Tensor
    master_sound_A: Tensor
    style_RK: Tensor
    style_gate_RG: Tensor
    kind: Tensor
    has_true_stems: Tensor
    part_P3M: Tensor
    part_role_P: Tensor
    part_PK: Tensor

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


class Strips(NamedTuple):
    """True strips of many examples, one after another.

    Attributes:
        position_MK: positions.
        weight_MK: how much they are heard.
        role_M: roles; 0 of masters, which have none.
        gate_MG: gates.
    """

    position_MK: Tensor
    weight_MK: Tensor
    role_M: Tensor
    gate_MG: Tensor


def track_strips(items: Sequence[MeasuredExample]) -> Strips:
    """Gather the tracks of examples."""
    return Strips(
        torch.cat([item.track_NK for item in items]),
        torch.cat([item.track_weight_NK for item in items]),
        torch.cat([item.role_N for item in items]),
        torch.cat([item.track_gate_NG for item in items]),
    )


def master_strips(items: Sequence[MeasuredExample]) -> Strips:
    """Gather the masters of examples."""
    return Strips(
        torch.stack([item.master_K for item in items]),
        torch.stack([item.master_weight_K for item in items]),
        torch.zeros(len(items), dtype=torch.long),
        torch.stack([item.master_gate_G for item in items]),
    )


class Audio(NamedTuple):
    """Audio of an example, float32.

    Attributes:
        tracks_NCT: as they are given.
        truth_NCT: as they shall sound in the mix.
        reference_CT: the reference; no samples where there is none.
    """

    tracks_NCT: Tensor
    truth_NCT: Tensor
    reference_CT: Tensor


_NAMES = tuple(each.name for each in fields(MeasuredExample))


@torch.no_grad()
def measure_batch(made: Sequence[Example], encoder: Encoder | None) -> list[MeasuredExample]:
    """Describe examples on the device of their audio; a reference that some share, once.

    Args:
        made: the examples.
        encoder: embeds the references; None: no embeddings.
    """
    references: dict[int, tuple[MeasuredReference, _Parts]] = {}
    for example in made:
        key = id(example.stems_SCT)
        if key not in references:
            references[key] = _described(example, encoder), _measured_parts(example)
    return [_measured(example, *references[id(example.stems_SCT)]) for example in made]


class _Parts(NamedTuple):
    """Tracks of a reference as in `MeasuredExample`."""

    part_P3M: Tensor
    part_role_P: Tensor
    part_PK: Tensor


def _measured_parts(example: Example) -> _Parts:
    parts = example.parts
    if parts is None:
        return _Parts(
            torch.zeros(0, 3, NUM_MELS), role_numbers((), ROLES), TRACK.neutral_K.expand(0, -1)
        )
    matrix_PCC = stereo_matrix(Values.of(parts.settings, SAMPLE_RATE_HZ))
    # Back to what width, pan and fader were applied to.
    inverse_PCC = torch.linalg.pinv(matrix_PCC, rtol=_LEAST_GAIN).to(parts.tracks_NCT)
    return _Parts(
        part_powers(inverse_PCC @ parts.tracks_NCT),
        role_numbers(parts.roles, ROLES),
        TRACK.positions(list(parts.settings.tracks.values())),
    )


def _described(example: Example, encoder: Encoder | None) -> MeasuredReference:
    if example.stems_SCT is None or example.reference_CT is None:
        none_0D = torch.zeros(0, NUM_DESCRIPTORS)
        return MeasuredReference(none_0D, none_0D, torch.zeros(0))
    return measure_reference(example.reference_CT, example.stems_SCT, encoder)


def _measured(example: Example, reference: MeasuredReference, parts: _Parts) -> MeasuredExample:
    tracks_NCT, settings = example.tracks_NCT, example.settings
    trim_db = [strip[TRIM] for strip in settings.tracks.values()]
    targets = Targets.of(settings)
    weights = heard(tracks_NCT, settings, SAMPLE_RATE_HZ)
    style = [] if example.origin is None else list(example.origin.style.tracks.values())
    submixed = () if example.origin is None else example.origin.submixed
    truth_ND = torch.zeros(0, NUM_DESCRIPTORS)
    if not example.knows_settings:
        assert example.truth_NCT is not None
        truth_ND = describe_audio(example.truth_NCT, SAMPLE_RATE_HZ)
        nothing = (0 * weights.track_NK, 0 * weights.master_K)
        weights = Weights(*nothing, weights.track_sound_NA, weights.master_sound_A)
    found = MeasuredExample(
        track_ND=describe_tracks(tracks_NCT, trim_db, SAMPLE_RATE_HZ),
        role_N=role_numbers(example.roles, ROLES),
        trim_N=torch.tensor(trim_db),
        stem_SD=reference.stem_SD,
        mid_side_2D=reference.mid_side_2D,
        embedding_E=reference.embedding_E,
        truth_ND=truth_ND,
        track_NK=targets.track_NK,
        track_gate_NG=targets.track_gate_NG,
        track_weight_NK=weights.track_NK,
        master_K=targets.master_K,
        master_gate_G=targets.master_gate_G,
        master_weight_K=weights.master_K,
        track_sound_NA=weights.track_sound_NA,
        master_sound_A=weights.master_sound_A,
        style_RK=TRACK.positions(style).view(len(style), len(TRACK.fields)),
        style_gate_RG=TRACK.gate_states(style),
        kind=torch.tensor(sum(1 << STEMS.index(stem) for stem in submixed)),
        has_true_stems=torch.tensor(example.stems == "true"),
        **parts._asdict(),
    )
    return MeasuredExample(*(getattr(found, name).cpu() for name in _NAMES))


class MeasuredExamples:
    """Measured examples of a split, and the audio of some.

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
        tensors = read_measured(_audio_path(self._folder, number), Audio._fields)
        return Audio(*(tensors[name].float() for name in Audio._fields))


def measure_examples(
    source: Source,
    num_examples: int,
    *,
    num_audio: int,
    encoder: Encoder | None,
    folder: Path,
    num_workers: int,
    device: torch.device,
) -> MeasuredExamples:
    """Draw and measure examples, or read what was measured before.

    The work is divided over the ranks by batches; all ranks call it.

    Args:
        source: of the examples.
        num_examples: the first so many.
        num_audio: of the first so many the audio is kept.
        encoder: on the device, embeds the references; None: no embeddings.
        folder: of the files; for this source and encoder only.
        num_workers: readers of this rank.
        device: where examples are made and described.

    Raises:
        TrainingError: a file cannot be read.
    """
    size = source.batch_size
    parts = [range(n, min(n + size, num_examples)) for n in range(0, num_examples, size)]
    missing = [
        number
        for number, part in enumerate(parts)
        if not _path(folder, part).exists()
        or not all(_audio_path(folder, n).exists() for n in part if n < num_audio)
    ]
    if own := own_share(missing):
        with (
            Progress(log, "measured", total=len(own) * size, unit="examples") as shown,
            source.running(own[0]) as reached,
        ):
            drawn = load_batches(source.recipes(), own, num_workers=num_workers, pinned=False)
            for number, recipes in zip(own, drawn, strict=True):
                reached(number)
                part = parts[number]
                made = source.made(recipes, device, with_truth=part.start < num_audio)
                _write(folder, part, made, encoder, num_audio)
                shown.advance(size)
    barrier()
    items = []
    for part in parts:
        found = read_measured(_path(folder, part), [_key(n, name) for n in part for name in _NAMES])
        for n in part:
            items.append(MeasuredExample(*(found[_key(n, name)] for name in _NAMES)))
    return MeasuredExamples(items, folder)


def _write(
    folder: Path,
    part: range,
    made: Sequence[Example],
    encoder: Encoder | None,
    num_audio: int,
) -> None:
    """Measure a batch and write it; its audio first, for the other file says that all is there."""
    tensors: dict[str, Tensor] = {}
    measured = measure_batch(made, encoder)
    for n, example, item in zip(part, made, measured, strict=False):
        # Tensors that examples share are stored with each.
        tensors |= {_key(n, name): getattr(item, name).clone() for name in _NAMES}
        if n < num_audio:
            assert example.truth_NCT is not None
            none_CT = example.tracks_NCT[0, :, :0]
            reference_CT = none_CT if example.reference_CT is None else example.reference_CT
            audio = Audio(example.tracks_NCT, example.truth_NCT, reference_CT)
            halves = {name: x.half().cpu().contiguous() for name, x in audio._asdict().items()}
            write_tensors(_audio_path(folder, n), halves)
    write_tensors(_path(folder, part), tensors)


def _path(folder: Path, part: range) -> Path:
    """Return the file of a batch; one that was not full has another name when it is."""
    return folder / f"{part.start:06d}-{part.stop:06d}.safetensors"


def _audio_path(folder: Path, number: int) -> Path:
    return folder / f"audio-{number:06d}.safetensors"


def _key(number: int, name: str) -> str:
    return f"{number}.{name}"
