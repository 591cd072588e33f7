"""Examples for the training of a controller, without an end: dry tracks, settings, a reference.

Every random choice follows from the seed, the step and the row, so that neither processes nor
devices change an example, and a training can go on from any step. An example is drawn as a recipe,
of dry sound and settings alone, which is cheap; the console makes the mixes of many recipes at
once, on any device.

Three kinds. *Raw-to-mix* begins with dry tracks, and is answered by the settings of the reference.
Mix-to-mix begins with the stems of a mix. Either it is *remixed*: its reference is a mix in the
same style as that, whose stems were mixed once more, by the settings that answer the example. Or it
is *restyled*: its reference is in another style, and the answer are the same dry tracks mixed in
that style. Which settings lead there nobody knows, but how it sounds is known.

Shape suffixes: N track, S stem, C channel, T sample.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixprint.console.settings import Settings
from mixprint.controller.draws import DrawConfig, Style, draw_style, neutral_style
from mixprint.controller.mixes import Mixing, mixed, separated_by_mask, stem_sums
from mixprint.controller.roles import ROLES
from mixprint.controller.segments import (
    Segment,
    SegmentConfig,
    cut,
    draw_submixed,
    integer,
    submixed,
    uniform,
    varied,
)
from mixprint.controller.songs import DrySong, SongConfig
from mixprint.errors import ConfigError
from mixprint.schema import Above, Part, Range
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.pool import MadePool
from mixprint.training.ranks import rank_and_world

# From the sound of a mix, stereo at 44.1 kHz, to its stems: mixture_CT -> stems_SCT.
Separate = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """Parameters of the examples.

    Attributes:
        songs: what is played.
        segments: what becomes of its tracks.
        draws: how styles are drawn that dry tracks are mixed in.
        redraws: how those are drawn that mixes are mixed in once more, to be remixed.
        excerpt_s: length of tracks and references.
        lead_s: what is mixed before a reference, and not given: its rooms and compressors have
            begun then.
        room_s: how long rooms are heard.
        examples_per_style: so many rows of a batch share a style and its reference, which costs
            most; or what is restyled, two songs in two styles, which make four examples.
        same_song_share: part of the references that is another excerpt of the same song.
        mix_to_mix_share: part of the styles whose examples begin with the stems of a mix.
        restyled_share: part of these that is restyled; the others are remixed.
        masked_share: part of the mixes whose stems are separated by a mask, at next to no cost.
        separated_share: part of the mixes whose stems come from a real separator; those of all
            others are true.
        reference_dropout: part of the examples without a reference.
    """

    songs: SongConfig
    segments: SegmentConfig
    draws: DrawConfig
    redraws: DrawConfig
    excerpt_s: Annotated[float, Above(0.0)]
    lead_s: Annotated[float, Range(0.0)]
    room_s: Annotated[float, Above(0.0)]
    examples_per_style: Annotated[int, Range(1)]
    same_song_share: Part
    mix_to_mix_share: Part
    restyled_share: Part
    masked_share: Part
    separated_share: Part
    reference_dropout: Part

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        if self.masked_share + self.separated_share > 1:
            raise ConfigError(
                f"masked_share and separated_share: expected a sum of at most 1, found "
                f"{self.masked_share:g} and {self.separated_share:g}"
            )
        if self.lead_s + self.excerpt_s > self.songs.duration_s:
            raise ConfigError(
                f"lead_s and excerpt_s: expected at most the {self.songs.duration_s:g} s of a song "
                f"together, found {self.lead_s:g} and {self.excerpt_s:g}"
            )

    @property
    def excerpt_samples(self) -> int:
        """Length of an excerpt."""
        return round(self.excerpt_s * SAMPLE_RATE_HZ)

    @property
    def lead_samples(self) -> int:
        """Length of what is mixed before it."""
        return round(self.lead_s * SAMPLE_RATE_HZ)


@dataclass(frozen=True, eq=False)
class MixRecipe:
    """A mix that shall be made.

    Attributes:
        segment: dry tracks, those of the lead included.
        styles: in which they are mixed, and then their stems, if there is a second one.
        stems: `true`, `masked` or `separated`: how its stems are known.
        seed: of how well they are separated.
    """

    segment: Segment
    styles: tuple[Style, ...]
    stems: str
    seed: int


@dataclass(frozen=True, eq=False)
class Recipe:
    """An example that shall be made.

    Attributes:
        row: in the whole batch.
        given: the dry tracks, or of mix-to-mix a mix, whose stems are given.
        answer: style in which that shall be mixed, or the mix that it shall become.
        reference: in that style; examples may share it; None: there is none.
        submixed: stems that come as one track, in what is mixed.
    """

    row: int
    given: Segment | MixRecipe
    answer: Style | MixRecipe
    reference: MixRecipe | None
    submixed: frozenset[str]


@dataclass(frozen=True, eq=False)
class Parts:
    """Tracks of a reference as they sound in it.

    Attributes:
        tracks_NCT: their sound; the sum is the reference.
        roles: theirs.
        settings: in which they were mixed.
    """

    tracks_NCT: Tensor
    roles: tuple[str, ...]
    settings: Settings


@dataclass(frozen=True, eq=False)
class Origin:
    """Style of which an example is one of many.

    Attributes:
        style: settings for a track of each role, named by it.
        submixed: stems that come as one track.
    """

    style: Settings
    submixed: frozenset[str]


@dataclass(frozen=True, eq=False)
class Example:
    """Example for a controller: tracks, a reference, and the settings or the sound that answer it.

    Attributes:
        tracks_NCT: what it is given, at 44.1 kHz, two channels each.
        names: of the tracks, all different.
        roles: theirs, all in `mixprint.controller.roles.ROLES`.
        settings: the answer, or neutral but for the trims, see `knows_settings`.
        truth_NCT: the tracks as they shall sound; None where the settings are known, unless it was
            asked for.
        reference_CT: a mix in the same style; None: there is none.
        stems_SCT: of the reference, true or separated.
        stems: how they are known: `true`, `masked` or `separated`; empty without a reference.
        parts: what the reference was mixed of; None: it is not known, or there is no reference.
        origin: where any dry tracks could be given in the same style; None: they could not.
        knows_settings: whether it is known which settings lead to the truth.
    """

    tracks_NCT: Tensor
    names: tuple[str, ...]
    roles: tuple[str, ...]
    settings: Settings
    truth_NCT: Tensor | None
    reference_CT: Tensor | None
    stems_SCT: Tensor | None
    stems: str
    parts: Parts | None = None
    origin: Origin | None = None
    knows_settings: bool = True


@dataclass(frozen=True, eq=False)
class _Group:
    """Style, or two, with the reference that its examples share.

    Attributes:
        given: style of the mixes that are given; None: dry tracks are.
        answer: style in which that shall be mixed.
        submixed: stems that come as one track.
        place: song and half that the reference is from.
        reference: in the style that answers, or in both.
    """

    given: Style | None
    answer: Style
    submixed: frozenset[str]
    place: tuple[int, int]
    reference: MixRecipe


@dataclass(frozen=True, eq=False)
class _Grid:
    """Two songs, each mixed in the same two styles: what is restyled, and what it shall become.

    Attributes:
        mixes: of each song, one in each style, separated as well or as badly.
        submixed: stems that come as one track.
    """

    mixes: tuple[tuple[MixRecipe, MixRecipe], ...]
    submixed: frozenset[str]

    def recipe(self, row: int, number: int) -> Recipe:
        """Return one of four examples; the first two begin with different songs and styles."""
        song, style = (number ^ number >> 1) & 1, number & 1
        given, answer = self.mixes[song][style], self.mixes[song][1 - style]
        return Recipe(row, given, answer, self.mixes[1 - song][1 - style], self.submixed)


class RecipeReader(Dataset[list[Recipe]]):
    """Recipes for readers: item n is this rank's part of the batch of step n."""

    def __init__(
        self,
        config: ExampleConfig,
        pool: MadePool[DrySong],
        batch_size: int,
        seed: int,
        *,
        rows: slice | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            config: parameters of the examples.
            pool: their songs, see `song_pool`.
            batch_size: examples of a step, over all ranks together.
            seed: of all that is drawn.
            rows: of the batch; None: those of this rank.
        """
        self._config, self._pool, self._seed = config, pool, seed
        self._rows = rank_rows(batch_size, *rank_and_world()) if rows is None else rows

    def __getitem__(self, step: int) -> list[Recipe]:
        """Draw the recipes of a step."""
        groups: dict[int, _Group | _Grid] = {}
        recipes = []
        for row in range(self._rows.start, self._rows.stop):
            number, place = divmod(row, self._config.examples_per_style)
            if number not in groups:
                groups[number] = self._group(step, number)
            recipes.append(self._recipe(step, row, place, groups[number]))
        return recipes

    def _group(self, step: int, number: int) -> _Group | _Grid:
        """Draw a style, or two, and its reference."""
        config, generator = self._config, self._generator("style", step, number)
        styles = [draw_style(generator, config.draws)]
        is_restyled = False
        if uniform(generator) < config.mix_to_mix_share:
            is_restyled = uniform(generator) < config.restyled_share
            draws = config.draws if is_restyled else config.redraws
            styles.append(draw_style(generator, draws))
        stems = draw_submixed(generator, config.segments)
        place = integer(generator, self._pool.size), integer(generator, 2)
        if is_restyled:
            places = (place, self._other(place, generator))
            pairs = (self._pair(step, each, styles, stems, generator) for each in places)
            return _Grid(tuple(pairs), stems)
        segment = submixed(self._cut(step, *place, generator, with_lead=True), stems)
        reference = self._mix(segment, tuple(styles), generator)
        *given, answer = styles
        return _Group(given[0] if given else None, answer, stems, place, reference)

    def _pair(
        self,
        step: int,
        place: tuple[int, int],
        styles: Sequence[Style],
        stems: frozenset[str],
        generator: torch.Generator,
    ) -> tuple[MixRecipe, MixRecipe]:
        """Return a song in two styles."""
        segment = submixed(self._cut(step, *place, generator, with_lead=True), stems)
        one = self._mix(segment, tuple(styles[:1]), generator)
        return one, replace(one, styles=tuple(styles[1:]))

    def _other(self, place: tuple[int, int], generator: torch.Generator) -> tuple[int, int]:
        """Draw song and half beside those of a reference."""
        (song, half), size = place, self._pool.size
        if uniform(generator) < self._config.same_song_share:
            return song, 1 - half
        song = (song + 1 + integer(generator, max(size - 1, 1))) % size
        return song, integer(generator, 2)

    def _recipe(self, step: int, row: int, number: int, group: _Group | _Grid) -> Recipe:
        config, generator = self._config, self._generator("row", step, row)
        if isinstance(group, _Grid):
            recipe = group.recipe(row, number)
        else:
            place = self._other(group.place, generator)
            dry = self._cut(step, *place, generator, with_lead=group.given is not None)
            dry = submixed(dry, group.submixed)
            given: Segment | MixRecipe
            if group.given is None:
                given = varied(dry, generator, config.segments)
            else:
                given = self._mix(dry, (group.given,), generator)
            recipe = Recipe(row, given, group.answer, group.reference, group.submixed)
        if uniform(generator) < config.reference_dropout:
            return replace(recipe, reference=None)
        return recipe

    def _mix(
        self, segment: Segment, styles: tuple[Style, ...], generator: torch.Generator
    ) -> MixRecipe:
        draw = uniform(generator)
        separated = self._config.separated_share
        stems = "separated" if draw < separated else "true"
        if separated <= draw < separated + self._config.masked_share:
            stems = "masked"
        return MixRecipe(segment, styles, stems, integer(generator, 1 << 31))

    def _cut(
        self, step: int, index: int, half: int, generator: torch.Generator, *, with_lead: bool
    ) -> Segment:
        """Cut an excerpt from a half of a song, or from anywhere if a half is too short."""
        song = self._pool.song(step, index)
        length = self._config.excerpt_samples + with_lead * self._config.lead_samples
        begin, end = half * song.num_samples // 2, (half + 1) * song.num_samples // 2
        if end - begin < length:
            begin, end = 0, song.num_samples
        return cut(song, begin + integer(generator, end - begin - length + 1), length)

    def _generator(self, purpose: str, step: int, number: int) -> torch.Generator:
        seed = derive_seed(self._seed, "controller", purpose, step, number)
        return torch.Generator().manual_seed(seed)


class _Given(NamedTuple):
    """Tracks as they are given, and as they really are, those of the lead included."""

    tracks: Segment
    true: Segment


class _Heard(NamedTuple):
    """Mix without its lead: its sound, its stems as they are known, these as tracks, its parts."""

    mix_CT: Tensor
    stems_SCT: Tensor
    given: _Given
    parts: Parts


class ExampleMaker:
    """Makes examples of recipes: the console mixes those of a batch side by side."""

    def __init__(
        self,
        config: ExampleConfig,
        device: torch.device,
        *,
        with_truth: bool = False,
        separate: Separate | None = None,
    ) -> None:
        """Take the parameters.

        Args:
            config: those that the recipes were drawn with.
            device: where they are mixed.
            with_truth: whether the tracks are mixed, too, as they shall sound.
            separate: the separator.

        Raises:
            ConfigError: stems shall be separated, and there is no separator.
        """
        if config.separated_share > 0 and separate is None:
            raise ConfigError(
                f"separated_share: expected 0 where there is no separator, found "
                f"{config.separated_share:g}"
            )
        self._config, self._device = config, device
        self._with_truth, self._separate = with_truth, separate

    def __call__(self, recipes: Sequence[Recipe]) -> list[Example]:
        """Make examples, on the device."""
        heard = self._mixes(recipes)
        given = [
            heard[id(recipe.given)].given
            if isinstance(recipe.given, MixRecipe)
            else _Given(recipe.given, recipe.given)
            for recipe in recipes
        ]
        neutral = neutral_style()
        settings = [
            _settings(each.tracks, recipe.answer if isinstance(recipe.answer, Style) else neutral)
            for each, recipe in zip(given, recipes, strict=True)
        ]
        truths = self._truths(recipes, given, settings, heard)
        return [
            self._example(each, wanted, truth_NCT, recipe, heard)
            for each, wanted, truth_NCT, recipe in zip(
                given, settings, truths, recipes, strict=True
            )
        ]

    def _truths(
        self,
        recipes: Sequence[Recipe],
        given: Sequence[_Given],
        settings: Sequence[Settings],
        heard: Mapping[int, _Heard],
    ) -> list[Tensor | None]:
        """Return the tracks as they shall sound: as the answer sounds, or, if asked for, mixed."""
        truths: list[Tensor | None] = [None] * len(recipes)
        for place, recipe in enumerate(recipes):
            if isinstance(recipe.answer, MixRecipe):
                stems_SCT = heard[id(recipe.answer)].stems_SCT
                truths[place] = stems_SCT[[STEMS.index(n) for n in given[place].tracks.names]]
        if self._with_truth:
            places = [place for place, truth_NCT in enumerate(truths) if truth_NCT is None]
            made = self._mixed([Mixing(given[p].true.tracks_NCT, settings[p]) for p in places])
            for place, mixed_NCT in zip(places, made, strict=True):
                truths[place] = self._without_lead(mixed_NCT)
        return truths

    def _example(
        self,
        given: _Given,
        settings: Settings,
        truth_NCT: Tensor | None,
        recipe: Recipe,
        heard: Mapping[int, _Heard],
    ) -> Example:
        mix_CT, stems_SCT, stems, parts = None, None, "", None
        if recipe.reference is not None:
            known = heard[id(recipe.reference)]
            mix_CT, stems_SCT, stems = known.mix_CT, known.stems_SCT, recipe.reference.stems
            # Where only the sound of the answer is known, another style would have another one.
            parts = known.parts if isinstance(recipe.answer, Style) else None
        origin = None
        if isinstance(recipe.answer, Style) and isinstance(recipe.given, Segment):
            no_trims = [0.0] * len(ROLES)
            style = recipe.answer.settings(ROLES, ROLES, no_trims, SAMPLE_RATE_HZ)
            origin = Origin(style, recipe.submixed)
        tracks = given.tracks
        return Example(
            self._without_lead(tracks.tracks_NCT).to(self._device),
            tracks.names,
            tracks.roles,
            settings,
            truth_NCT,
            mix_CT,
            stems_SCT,
            stems,
            parts=parts,
            origin=origin,
            knows_settings=isinstance(recipe.answer, Style),
        )

    def _mixes(self, recipes: Sequence[Recipe]) -> dict[int, _Heard]:
        """Make the mixes of recipes, each once, by the identity of its recipe."""
        keyed = {
            id(mix): mix
            for recipe in recipes
            for mix in (recipe.given, recipe.answer, recipe.reference)
            if isinstance(mix, MixRecipe)
        }
        mixes = list(keyed.values())
        made = self._parts([(mix.segment, mix.styles[0]) for mix in mixes])
        twice = [n for n, mix in enumerate(mixes) if len(mix.styles) > 1]
        again = self._parts([(_stem_tracks(_stems(made[n])), mixes[n].styles[1]) for n in twice])
        made_last = dict(enumerate(made)) | dict(zip(twice, again, strict=True))
        return {key: self._heard(mix, made_last[n]) for n, (key, mix) in enumerate(keyed.items())}

    def _parts(self, wanted: Sequence[tuple[Segment, Style]]) -> list[Parts]:
        """Mix songs, each in a style: the tracks of each, with the lead."""
        settings = [_settings(segment, style) for segment, style in wanted]
        made = self._mixed(
            [
                Mixing(segment.tracks_NCT, own)
                for (segment, _), own in zip(wanted, settings, strict=True)
            ]
        )
        return [
            Parts(mixed_NCT, segment.roles, own)
            for mixed_NCT, (segment, _), own in zip(made, wanted, settings, strict=True)
        ]

    def _mixed(self, mixings: Sequence[Mixing]) -> list[Tensor]:
        """Mix songs; those of one length side by side."""
        lengths = [mixing.tracks_NCT.shape[-1] for mixing in mixings]
        made: dict[int, Tensor] = {}
        for length in set(lengths):
            places = [place for place, own in enumerate(lengths) if own == length]
            chosen = [mixings[place] for place in places]
            results = mixed(chosen, self._device, self._config.room_s)
            made |= dict(zip(places, results, strict=True))
        return [made[place] for place in range(len(mixings))]

    def _heard(self, mix: MixRecipe, parts: Parts) -> _Heard:
        """Return the sound of a mix without its lead, and its stems as they are known."""
        true_SCT = _stems(parts)
        mix_CT, stems_SCT = true_SCT.sum(dim=0), true_SCT
        if mix.stems == "masked":
            generator = torch.Generator().manual_seed(mix.seed)
            stems_SCT = separated_by_mask(true_SCT, generator)
        elif mix.stems == "separated":
            assert self._separate is not None
            stems_SCT = self._separate(mix_CT).to(true_SCT)
        true = _stem_tracks(true_SCT)
        places = [STEMS.index(name) for name in true.names]
        known_SCT = self._without_lead(stems_SCT)
        known = Segment(known_SCT[places], true.names, true.roles)
        sounding = replace(parts, tracks_NCT=self._without_lead(parts.tracks_NCT))
        return _Heard(self._without_lead(mix_CT), known_SCT, _Given(known, true), sounding)

    def _without_lead(self, audio_T: Tensor) -> Tensor:
        return audio_T[..., -self._config.excerpt_samples :]


def _stems(parts: Parts) -> Tensor:
    return stem_sums(parts.tracks_NCT, parts.roles)


def _stem_tracks(stems_SCT: Tensor) -> Segment:
    """Return the stems that sound as tracks; the first one where none does."""
    sounds_S = stems_SCT.abs().amax(dim=(1, 2)) > 0
    places = sounds_S.nonzero()[:, 0].tolist() or [0]
    names = tuple(STEMS[place] for place in places)
    return Segment(stems_SCT[places], names, names)


def _settings(segment: Segment, style: Style) -> Settings:
    return style.settings(segment.names, segment.roles, segment.trims_db(), SAMPLE_RATE_HZ)
