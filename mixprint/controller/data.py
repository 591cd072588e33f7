"""Batches of the training, made by readers.

Every random choice is derived from the seed, the step and the row, so the number of processes
changes no example.

Shape suffixes: B example of this rank, N track, R part of the reference, C channel, T sample, D
number of a descriptor, E embedding, K field.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from mixprint.controller.exchange import exchangeable, exchanged
from mixprint.controller.heads import StripTarget
from mixprint.controller.inputs import (
    MID_SIDE_KINDS,
    STEM_KINDS,
    SongInputs,
    batched,
    describe_reference,
    describe_tracks,
)
from mixprint.controller.measured import Audio, MeasuredExample, MeasuredExamples
from mixprint.controller.model import Inputs
from mixprint.controller.references import MeasuredReference, MeasuredReferences
from mixprint.controller.roles import ROLES, UNKNOWN, stem_numbers
from mixprint.controller.settings import TrainParameters
from mixprint.controller.style_noise import StyleNoise, with_style_noise
from mixprint.controller.targets import TRACK
from mixprint.errors import TrainingError
from mixprint.features.descriptors import shifted
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import rank_and_world

_FADER = TRACK.place("fader_db")
# Number of the stem that tracks of each role are part of; the first role is the unknown one.
_STEM_OF_ROLE_R = torch.tensor(stem_numbers((UNKNOWN, *ROLES)))


class Heard(NamedTuple):
    """Audio of an example, in phases that learn from it.

    Attributes:
        tracks_NCT: dry.
        truth_NCT: as they sound in the true mix; no tracks where there is no truth.
        reference_CT: other music that the mix shall sound like; no samples where there is a truth,
            or no reference is given.
    """

    tracks_NCT: Tensor
    truth_NCT: Tensor
    reference_CT: Tensor


class Batch(NamedTuple):
    """This rank's part of a batch.

    Attributes:
        inputs: of the songs.
        track: the truth of all rows B x N, padding included.
        master: the truth of the masters.
        trim_BN: what brings tracks to the working level, dB.
        truth_BND: descriptors of the tracks as they shall sound.
        has_truth_B: in which songs these are known; in the others they are zeros.
        heard: audio of each song, in phases that learn from it.
    """

    inputs: Inputs
    track: StripTarget
    master: StripTarget
    trim_BN: Tensor
    truth_BND: Tensor
    has_truth_B: Tensor
    heard: list[Heard]


class ExampleReader(Dataset[Batch | None]):
    """Parts of batches for readers: item n is this rank's part of the batch of step n.

    None where there are more ranks than examples.
    """

    def __init__(
        self,
        config: TrainParameters,
        measured: MeasuredExamples,
        embedding_dim: int,
        references: MeasuredReferences | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            config: parameters of the training.
            measured: examples of the train split.
            embedding_dim: of the embeddings.
            references: finished mixes for method 2; None: the references of other examples.

        Raises:
            TrainingError: there is nothing that a phase can learn from.
        """
        self._config, self._measured, self._embedding_dim = config, measured, embedding_dim
        self._references = references
        self._exchangeable = exchangeable(measured.items)
        self._rank, self._world_size = rank_and_world()
        with_audio = range(config.num_audio)
        # What each objective can learn from.
        self._choices: dict[str, Sequence[int]] = {
            "likelihood": range(len(measured.items)),
            "audio": with_audio,
            "method1": with_audio,
            "method2": [
                n for n in with_audio if references is not None or len(measured.items[n].stem_SD)
            ],
        }
        for phase in config.phases:
            if not self._choices[phase.objective]:
                raise TrainingError(
                    f"controller: expected examples for {phase.objective}, found none among "
                    f"{len(measured.items)}; raise num_examples or num_audio"
                )

    def numbers(self, step: int) -> list[tuple[int, int]]:
        """Draw this rank's examples of a step: rows in the whole batch, and numbers."""
        phase, _ = self._config.phase(step)
        rows = rank_rows(phase.batch_size, self._rank, self._world_size)
        choice = self._choices[phase.objective]
        return [
            (row, self._rng("number", step, row).choice(choice))
            for row in range(rows.start, rows.stop)
        ]

    def __getitem__(self, step: int) -> Batch | None:
        """Read the batch of a step."""
        songs, items, heard = [], [], []
        drawn = self.numbers(step)
        for (row, number), varied in zip(drawn, self._varied(step, drawn), strict=True):
            song, item, audio = self._example(step, row, number, varied)
            songs.append(song)
            items.append(item)
            heard += audio
        return stacked(songs, items, heard, self._embedding_dim) if songs else None

    def _varied(self, step: int, drawn: Sequence[tuple[int, int]]) -> list[MeasuredExample]:
        """Return the examples of a step, in phases of likelihood with other tracks and styles."""
        items = [self._measured.items[number] for _, number in drawn]
        if self._config.phase(step)[0].objective != "likelihood":
            return items
        rngs = [self._rng("varied", step, row) for row, _ in drawn]
        return self._in_other_styles(self._with_other_tracks(items, rngs), rngs)

    def _with_other_tracks(
        self, items: list[MeasuredExample], rngs: Sequence[random.Random]
    ) -> list[MeasuredExample]:
        """Exchange the tracks of a part of the examples."""
        chosen = [
            place
            for place, (item, rng) in enumerate(zip(items, rngs, strict=True))
            if rng.random() < self._config.exchange_share and len(item.style_RK)
        ]
        others = [
            self._measured.items[rngs[place].choice(self._exchangeable[int(items[place].kind)])]
            for place in chosen
        ]
        found = exchanged([items[place] for place in chosen], others)
        changed = dict(zip(chosen, found, strict=True))
        return [changed.get(place, item) for place, item in enumerate(items)]

    def _in_other_styles(
        self, items: list[MeasuredExample], rngs: Sequence[random.Random]
    ) -> list[MeasuredExample]:
        """Change the styles of a part of the examples, and only levels of the others."""
        config = self._config
        chosen = [
            place
            for place, (item, rng) in enumerate(zip(items, rngs, strict=True))
            if rng.random() < config.style_noise_share and len(item.part_role_P)
        ]
        noise = StyleNoise(
            config.level_noise_db,
            config.tone_noise_db,
            config.tone_noise_octaves,
            config.image_noise,
        )
        seeds = [rngs[place].getrandbits(62) for place in chosen]
        found = with_style_noise([items[place] for place in chosen], seeds, noise)
        changed = dict(zip(chosen, found, strict=True))
        return [
            changed[place] if place in changed else louder(item, rng, config.level_noise_db)
            for place, (item, rng) in enumerate(zip(items, rngs, strict=True))
        ]

    def _rng(self, *key: object) -> random.Random:
        return random.Random(derive_seed(self._config.seed, *key))

    def _example(
        self, step: int, row: int, number: int, item: MeasuredExample
    ) -> tuple[SongInputs, MeasuredExample, list[Heard]]:
        objective = self._config.phase(step)[0].objective
        rng = self._rng("inputs", step, row)
        if objective == "likelihood":
            return self._song(rng, item, item), item, []
        audio = self._measured.audio(number)
        none_0CT = audio.tracks_NCT[:0]
        if objective == "audio":
            heard = Heard(audio.tracks_NCT, audio.truth_NCT, audio.reference_CT[:, :0])
            return self._song(rng, item, item), item, [heard]
        if objective == "method1":
            return self._halves(item, audio)
        reference, reference_CT = self._other(rng)
        song = self._song(rng, item, reference)
        # What the network is not told of must not be aimed at.
        heard_CT = reference_CT if song.has_reference else reference_CT[:, :0]
        return song, item, [Heard(audio.tracks_NCT, none_0CT, heard_CT)]

    def _other(self, rng: random.Random) -> tuple[MeasuredExample | MeasuredReference, Tensor]:
        """Draw a reference of other music, and its sound."""
        if self._references is not None:
            other = rng.randrange(len(self._references.items))
            return self._references.items[other], self._references.audio(other)
        other = rng.choice(self._choices["method2"])
        return self._measured.items[other], self._measured.audio(other).reference_CT

    def _halves(
        self, item: MeasuredExample, audio: Audio
    ) -> tuple[SongInputs, MeasuredExample, list[Heard]]:
        """Let the mix of the first half be the reference of the second one (method 1)."""
        tracks_NCT, mixed_NCT = audio.tracks_NCT, audio.truth_NCT
        half = tracks_NCT.shape[-1] // 2
        song = SongInputs(
            describe_tracks(tracks_NCT[..., half:], item.trim_N.tolist(), SAMPLE_RATE_HZ),
            item.role_N,
            describe_reference(mixed_NCT[..., :half].sum(dim=0), SAMPLE_RATE_HZ),
            torch.tensor(MID_SIDE_KINDS),
        )
        none_CT = tracks_NCT[0, :, :0]
        return song, item, [Heard(tracks_NCT[..., half:], mixed_NCT[..., half:], none_CT)]

    def _song(
        self,
        rng: random.Random,
        item: MeasuredExample,
        reference: MeasuredExample | MeasuredReference,
    ) -> SongInputs:
        """Put a song together, with less than all that is known of it."""
        config = self._config
        draws = [rng.random() for _ in range(4)]
        has_reference = draws[0] >= config.reference_dropout
        has_stems = draws[1] >= config.stems_dropout
        # Without separation there are no stems to embed.
        has_embedding = has_stems and draws[2] >= config.embedding_dropout
        role_N = item.role_N.clone()
        for place in range(len(role_N)):
            if rng.random() < config.role_dropout:
                role_N[place] = 0
        song = reference_song(replace(item, role_N=role_N), reference, has_stems=has_stems)
        if not has_reference:
            return song.without_reference()
        is_alone = draws[3] < config.embedding_alone
        if song.embedding_E is None or not (has_embedding or is_alone):
            return replace(song, embedding_E=None)
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        noise_E = torch.randn(song.embedding_E.shape, generator=generator)
        noise_E *= config.embedding_noise / math.sqrt(len(noise_E))
        embedding_E = functional.normalize(song.embedding_E + noise_E, dim=-1)
        if is_alone:
            song = song.without_reference()
        return replace(song, embedding_E=embedding_E)


def louder(item: MeasuredExample, rng: random.Random, level_noise_db: float) -> MeasuredExample:
    """Change the levels of a reference's stems, and the faders or levels that answer to them.

    What the master's compressor would do otherwise is not counted: it is less than the change.

    Args:
        item: the example.
        rng: draws the changes.
        level_noise_db: their standard deviation: half the variance is of the whole mix.
    """
    if level_noise_db == 0 or len(item.stem_SD) == 0:
        return item
    whole_db, *own_db = (rng.gauss(0.0, level_noise_db * math.sqrt(0.5)) for _ in range(5))
    change_S = torch.tensor([whole_db + each_db for each_db in own_db])
    change_N = change_S[_STEM_OF_ROLE_R[item.role_N]]
    track_NK = item.track_NK.clone()
    track_NK[:, _FADER] += change_N / TRACK.span("fader_db")
    return replace(
        item,
        stem_SD=shifted(item.stem_SD, change_S),
        mid_side_2D=shifted(item.mid_side_2D, torch.full((2,), whole_db)),
        truth_ND=shifted(item.truth_ND, change_N) if len(item.truth_ND) else item.truth_ND,
        track_NK=track_NK,
    )


def reference_song(
    item: MeasuredExample,
    reference: MeasuredExample | MeasuredReference,
    *,
    has_stems: bool = True,
) -> SongInputs:
    """Put the tracks of one example and the reference of another together."""
    if len(reference.mid_side_2D) == 0:
        return SongInputs(item.track_ND, item.role_N)
    has_stems = has_stems and len(reference.stem_SD) > 0
    embedding_E = reference.embedding_E if len(reference.embedding_E) and has_stems else None
    return SongInputs(
        item.track_ND,
        item.role_N,
        reference.stem_SD if has_stems else reference.mid_side_2D,
        torch.tensor(STEM_KINDS if has_stems else MID_SIDE_KINDS),
        embedding_E,
    )


def stacked(
    songs: Sequence[SongInputs],
    items: Sequence[MeasuredExample],
    heard: list[Heard],
    embedding_dim: int,
) -> Batch:
    """Pad examples to a batch."""
    inputs = batched(songs, embedding_dim)
    num_tracks = inputs.is_track_BN.shape[1]

    def rows(values: Sequence[Tensor]) -> Tensor:
        padding = [(0,) * (2 * v.ndim - 1) + (num_tracks - len(v),) for v in values]
        return torch.cat([functional.pad(v, p) for v, p in zip(values, padding, strict=True)])

    return Batch(
        inputs,
        StripTarget(*(rows(values) for values in zip(*(i.track for i in items), strict=True))),
        StripTarget(*(torch.cat(v) for v in zip(*(i.master for i in items), strict=True))),
        rows([item.trim_N for item in items]).view(len(items), num_tracks),
        rows(
            [item.truth_ND if len(item.truth_ND) else 0 * item.track_ND for item in items]
        ).unflatten(0, (len(items), num_tracks)),
        torch.tensor([len(item.truth_ND) > 0 for item in items]),
        heard,
    )
