"""Fitted pairs as the source of a training: what one engineer did to the tracks of each.

An example is an excerpt of a pair, its settings are the fitted ones, and its reference is the mix
of another pair of the same engineer. Examples without a reference say what the engineer does on the
whole.

Shape suffixes: N track, S stem, C channel, T sample.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.controller.examples import Example
from mixprint.controller.fits import Fit, PairAudio
from mixprint.controller.mixes import Mixing, mixed, separated_by_mask, stem_sums
from mixprint.controller.roles import guess_role
from mixprint.controller.segments import draw_kept, integer, uniform
from mixprint.fingerprint import code_version, fingerprint
from mixprint.schema import Above, Part, Range
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.loading import derive_seed

_TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class PairExampleConfig:
    """Parameters of the examples that are drawn from pairs.

    Attributes:
        excerpt_s: length of tracks and references; pairs may be shorter.
        examples_per_reference: so many examples share a reference, which costs most.
        masked_share: part of the references whose stems are separated by a mask, as songs are in
            use; those of the others are what the console makes of them.
        track_dropout: of tracks up to this part is missing, drawn anew for each example.
    """

    excerpt_s: Annotated[float, Above(0.0)]
    examples_per_reference: Annotated[int, Range(1)]
    masked_share: Part
    track_dropout: Part


@dataclass(frozen=True)
class _Excerpt:
    """Part of a pair that is used.

    Attributes:
        fit: its settings.
        audio: its sound, all of it.
        first: sample that the excerpt begins with.
        num_samples: its length.
    """

    fit: Fit
    audio: PairAudio
    first: int
    num_samples: int

    def cut(self, audio_T: Tensor) -> Tensor:
        """Return the excerpt of something as long as the whole."""
        return audio_T[..., self.first : self.first + self.num_samples]


@dataclass(frozen=True)
class _Recipe:
    """Batch of examples that shall be made.

    Attributes:
        rows: an excerpt of each, with the places of the tracks that are given, and whether the
            reference is given, too.
        reference: in common.
        mask_seed: of how well its stems are separated; None: they are true.
    """

    rows: tuple[tuple[_Excerpt, list[int], bool], ...]
    reference: _Excerpt
    mask_seed: int | None


class FittedExamples(Dataset[_Recipe]):
    """Source of examples (`mixprint.controller.measured.Source`).

    Attributes:
        batch_size: examples that share a reference.
        fingerprint: of all that they follow from.
    """

    def __init__(
        self,
        fits: Sequence[Fit],
        references: Sequence[Fit],
        config: PairExampleConfig,
        *,
        reference_dropout: float,
        seed: int,
    ) -> None:
        """Draw nothing yet.

        Args:
            fits: pairs whose tracks are given, one after another; one at least.
            references: pairs whose mixes may be references; never that of the example itself.
            config: parameters of the examples.
            reference_dropout: part of the examples without a reference.
            seed: of all that is drawn.
        """
        self._fits, self._references = tuple(fits), tuple(references)
        self._config, self._seed = config, seed
        self._reference_dropout = reference_dropout
        self.batch_size = config.examples_per_reference
        self.fingerprint = fingerprint(
            {
                "pairs": [[fit.name, fit.recipe, fit.settings.to_values()] for fit in fits],
                "references": [[fit.name, fit.recipe] for fit in references],
                "config": asdict(config),
                "reference_dropout": reference_dropout,
                "seed": seed,
                "code": code_version(__name__),
            }
        )

    def recipes(self) -> "FittedExamples":
        """Return what readers draw."""
        return self

    @contextmanager
    def running(self, number: int) -> Iterator[Callable[[int], None]]:
        """Work ahead on nothing: all pairs are there."""
        del number
        yield lambda _: None

    def __getitem__(self, number: int) -> _Recipe:
        """Draw a batch."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "pairs", number))
        places = [
            (number * self.batch_size + row) % len(self._fits) for row in range(self.batch_size)
        ]
        names = {self._fits[place].name for place in places}
        others = [fit for fit in self._references if fit.name not in names] or self._references
        reference = others[integer(generator, len(others))]
        mask_seed = integer(generator, 1 << 31)
        is_masked = uniform(generator) < self._config.masked_share
        rows = []
        for place in places:
            fit = self._fits[place]
            is_told = uniform(generator) >= self._reference_dropout and fit.name != reference.name
            excerpt = self._excerpt(fit, generator)
            _, kept = draw_kept(len(fit.settings.tracks), generator, self._config.track_dropout)
            rows.append((excerpt, kept, is_told))
        return _Recipe(
            tuple(rows), self._excerpt(reference, generator), mask_seed if is_masked else None
        )

    def _excerpt(self, fit: Fit, generator: torch.Generator) -> _Excerpt:
        audio = fit.audio()
        length = audio.mix_CT.shape[-1]
        num_samples = min(round(self._config.excerpt_s * SAMPLE_RATE_HZ), length)
        first = integer(generator, length - num_samples + 1)
        return _Excerpt(fit, audio, first, num_samples)

    def made(self, recipe: _Recipe, device: torch.device, *, with_truth: bool) -> list[Example]:
        """Make a batch; a pair's tracks in the mix only where they are needed."""
        mix_CT, stems_SCT = None, None
        if any(is_told for _, _, is_told in recipe.rows):
            mix_CT, stems_SCT = _reference(recipe.reference, recipe.mask_seed, device)
        examples = []
        for excerpt, kept, is_told in recipe.rows:
            fit, audio = excerpt.fit, excerpt.audio
            names = tuple(list(fit.settings.tracks)[place] for place in kept)
            truth_NCT = None
            if with_truth:
                truth_NCT = excerpt.cut(sounding(fit, audio, device))[kept]
            stems = "true" if recipe.mask_seed is None else "masked"
            tracks = {name: fit.settings.tracks[name] for name in names}
            examples.append(
                Example(
                    tracks_NCT=excerpt.cut(audio.tracks_NCT)[kept].to(device),
                    names=names,
                    roles=tuple(guess_role(name) for name in names),
                    settings=replace(fit.settings, tracks=tracks),
                    truth_NCT=truth_NCT,
                    reference_CT=mix_CT if is_told else None,
                    stems_SCT=stems_SCT if is_told else None,
                    stems=stems if is_told else "",
                )
            )
        return examples


def sounding(fit: Fit, audio: PairAudio, device: torch.device) -> Tensor:
    """Return the tracks as they sound in the mix, which is their sum: mixed_NCT.

    Where they are unknown, they are what the console makes of them by the fitted settings; what it
    does not explain of the mix is shared out in proportion to their energies.
    """
    if audio.mixed_NCT is not None:
        return audio.mixed_NCT.to(device)
    mix_CT = audio.mix_CT.to(device)
    if len(audio.tracks_NCT) == 1:
        return mix_CT[None]
    (made_NCT,) = mixed([Mixing(audio.tracks_NCT.to(device), fit.settings)], device)
    energy_N = made_NCT.square().sum(dim=(1, 2)) + _TINY
    share_N11 = (energy_N / energy_N.sum())[:, None, None]
    return made_NCT + share_N11 * (mix_CT - made_NCT.sum(dim=0))


def _reference(
    excerpt: _Excerpt, mask_seed: int | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the mix of a reference and its stems."""
    mixed_NCT = excerpt.cut(sounding(excerpt.fit, excerpt.audio, device))
    stems_SCT = stem_sums(mixed_NCT, [guess_role(name) for name in excerpt.fit.settings.tracks])
    if mask_seed is not None:
        stems_SCT = separated_by_mask(stems_SCT, torch.Generator().manual_seed(mask_seed))
    return excerpt.cut(excerpt.audio.mix_CT).to(device), stems_SCT
