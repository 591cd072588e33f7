"""Transfer measured against the true answer, which generated songs have.

Song X mixed in style A is the input, song Y in style B the target. X in style B is the truth; no
method ever hears it. The kinds of questions:

| kind | input | rooms |
| --- | --- | --- |
| mix-to-mix | X in style A | the generator's, which the console shares |
| raw-to-mix | the dry stems of X, all equally loud | the same |
| ..., other room | as above | input, target and truth in rooms 0.7 or 1.4 times as large |

In another room the echoes are others, and the reverb times the same: there nobody gains by sharing
the generator's room. Mix-to-mix is asked with the true stems of input and target, and with stems
that a separator takes out of the mixtures, so that the separator's share of the error is seen.

`mixprint.evaluation.mix_distances` measures how far an output lies from the truth. Stems are
compared with stems of the same kind: true ones with the truth's true stems, separated ones with
what the separator takes out of the truth.

Shape suffixes: S stem, C channel (left, right), T sample, F frequency bin, K band, L tap.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.collection.sources import SETTINGS
from mixprint.dsp.decibels import amplitude
from mixprint.errors import DataError
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.mix_distances import (
    MEASURES,
    WINDOW,
    distances,
    hann_window,
    power_spectrum,
)
from mixprint.evaluation.retrieval import Estimate, bootstrap, bootstrap_mean
from mixprint.features import Standardisation
from mixprint.fingerprint import code_version, file_sha256
from mixprint.progress import Progress
from mixprint.schema import WithOthers, read_mapping, read_record
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import MixSettings, mix
from mixprint.synthesis.style_benchmark import DRY, DryLevel

log = logging.getLogger("mixprint.evaluation")

# Makes input stems sound like the target's: (input_stems_SCT, target_stems_SCT) -> stems_SCT.
Method = Callable[[Tensor, Tensor], Tensor]
Separate = Callable[[Tensor], Tensor]

TRUE, SEPARATED = "true", "separated"
NOTHING = "nothing"
NEARER_BY = ("stft", "bands_db")

# Read before the compared segment, for what rings into it.
LEAD_S = 2.0
# Of each dry stem, as an input.
WORKING_LUFS = -20.0
_SILENT_LUFS = -69.0
# Thirds of an octave from 31.5 Hz to 16 kHz, as on a graphic equaliser.
_THIRDS_HZ = [1000.0 * 2.0 ** (n / 3) for n in range(-15, 13)]
_MAX_EQ_DB = 15.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of questions.

    Attributes:
        name: for people and tables.
        is_raw: whether dry stems are the input.
        room_sizes: of all mixes, in turn over the cases; 1 is the generator's own room.
        stems: of which stems it is asked, `TRUE` and `SEPARATED`.
    """

    name: str
    is_raw: bool = False
    room_sizes: tuple[float, ...] = (1.0,)
    stems: tuple[str, ...] = (TRUE,)


OTHER_ROOM_SIZES = (0.7, 1.4)
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(name="mix-to-mix", stems=(TRUE, SEPARATED)),
        Kind(name="raw-to-mix", is_raw=True),
        Kind(name="mix-to-mix, other room", room_sizes=OTHER_ROOM_SIZES),
        Kind(name="raw-to-mix, other room", is_raw=True, room_sizes=OTHER_ROOM_SIZES),
    )
}


@dataclass(frozen=True)
class Case:
    """Folders of the three mixes of a question, as `mixprint.synthesis` writes them."""

    input: Path
    target: Path
    truth: Path
    input_song: str

    @property
    def dry(self) -> Path:
        """Folder of the dry stems of the input's song."""
        return self.truth.with_name(f"{self.input_song}-{DRY}")

    @property
    def target_dry(self) -> Path:
        """Folder of the dry stems of the target's song."""
        song = read_record(self.target / SETTINGS, _Truth).song
        return self.target.with_name(f"{song}-{DRY}")


@dataclass(frozen=True)
class Segment:
    """Part of all songs that is compared, in seconds."""

    start_s: float
    duration_s: float

    @property
    def lead_s(self) -> float:
        """Length of what is read before it."""
        return min(self.start_s, LEAD_S)


@dataclass(frozen=True, kw_only=True)
class _Truth(WithOthers):
    """Part of a generated mix's settings that is read."""

    song: str
    style: str
    split: str = ""


def draw_cases(data_dir: Path, num_cases: int, *, split: str = "test", seed: int = 0) -> list[Case]:
    """Draw cases from generated songs, each song in turn as the input.

    Args:
        data_dir: mixes of songs in several styles, such as `synthesis.style_benchmark` writes.
        num_cases: most cases; no two are equal.
        split: whose mixes are used.
        seed: of the drawing.

    Raises:
        DataError: no song of the split has two styles of which another song has one.
    """
    folders: dict[str, dict[str, Path]] = {}
    for path in sorted(data_dir.glob(f"*/{SETTINGS}")):
        truth = read_record(path, _Truth)
        if truth.split == split and truth.style != DRY:
            folders.setdefault(truth.song, {})[truth.style] = path.parent
    possible = {
        song: Rng(seed, song).shuffled(
            [
                Case(mixes[style_a], folders[other][style_b], mixes[style_b], song)
                for style_a in mixes
                for style_b in mixes
                for other in folders
                if style_a != style_b and other != song and style_b in folders[other]
            ]
        )
        for song, mixes in folders.items()
    }
    rounds = max(map(len, possible.values()), default=0)
    cases = [found[n] for n in range(rounds) for found in possible.values() if n < len(found)]
    if not cases:
        raise DataError(
            f"{data_dir}: expected songs of the split {split!r} in two styles or more, of which "
            f"another song has one, found {len(folders)} songs without"
        )
    return cases[:num_cases]


class Question:
    """A case of some kind as audio, read and rendered when it is first looked at."""

    def __init__(
        self,
        case: Case,
        kind: Kind,
        stems: str,
        room_size: float,
        segment: Segment,
        separate: Separate | None,
    ) -> None:
        """Remember what is asked.

        Args:
            case: the mixes.
            kind: what is made of them.
            stems: `TRUE`, or `SEPARATED`, which needs `separate`.
            room_size: of all mixes.
            segment: the part that is compared.
            separate: takes a mixture apart into stems_SCT.
        """
        self.case, self.kind, self.stems, self.room_size = case, kind, stems, room_size
        self.segment, self._separate = segment, separate

    @property
    def made_with(self) -> dict[str, Any]:
        """Inputs of the question, as JSON holds them."""
        folders = [self.case.input, self.case.target, self.case.truth]
        if self.kind.is_raw or self.room_size != 1:
            folders.append(self.case.dry)
        if self.room_size != 1:
            folders.append(self.case.target_dry)
        return {
            "is_raw": self.kind.is_raw,
            "room_size": self.room_size,
            "stems": self.stems,
            "mixes": [_sha256(folder) for folder in folders],
            "segment": asdict(self.segment),
        }

    @property
    def num_lead(self) -> int:
        """Number of the samples before the compared segment in `led_input`."""
        return round(self.segment.lead_s * SAMPLE_RATE_HZ)

    @cached_property
    def input_stems(self) -> Tensor:
        """Stems of the input, stems_SCT."""
        return self.led_input[..., self.num_lead :]

    @cached_property
    def target_stems(self) -> Tensor:
        """Stems of the target, stems_SCT."""
        return self._in_kind(self._mix(self.case.target, self.case.target_dry))[
            ..., self.num_lead :
        ]

    @cached_property
    def truth_stems(self) -> Tensor:
        """Stems of the truth, stems_SCT."""
        return self._in_kind(self._true_stems)[..., self.num_lead :]

    @cached_property
    def truth_mix(self) -> Tensor:
        """Mix of the truth, mix_CT."""
        return self.led_truth[:, self.num_lead :]

    @cached_property
    def led_input(self) -> Tensor:
        """Stems of the input with what comes before the segment, stems_SCT."""
        if not self.kind.is_raw:
            return self._in_kind(self._mix(self.case.input, self.case.dry))
        dry_SCT = self.dry_song
        levels = [loudness_lufs(dry_CT, SAMPLE_RATE_HZ) for dry_CT in dry_SCT]
        gain_S = torch.tensor([WORKING_LUFS - x if x > _SILENT_LUFS else 0.0 for x in levels])
        return self.cut(dry_SCT * amplitude(gain_S)[:, None, None])

    @cached_property
    def led_truth(self) -> Tensor:
        """Mix of the truth with what comes before the segment, mix_CT."""
        return self._true_stems.sum(0)

    @cached_property
    def dry_song(self) -> Tensor:
        """Dry stems of the input's whole song, stems_SCT, as loud as the generator mixed them."""
        return read_dry(self.case.dry)

    @cached_property
    def _true_stems(self) -> Tensor:
        return self._mix(self.case.truth, self.case.dry)

    def _mix(self, folder: Path, dry: Path) -> Tensor:
        """Read a mix, or render it in another room."""
        start_s = self.segment.start_s - self.segment.lead_s
        duration_s = self.segment.lead_s + self.segment.duration_s
        if self.room_size == 1:
            return _read_stems(folder, start_s, duration_s)
        dry_SCT = read_dry(dry).double().numpy()
        mixed_CT = mix(dict(zip(STEMS, dry_SCT, strict=True)), mix_settings(folder), self.room_size)
        return self.cut(torch.stack([torch.from_numpy(mixed_CT[stem]).float() for stem in STEMS]))

    def cut(self, song_SCT: Tensor) -> Tensor:
        """Cut the segment and what is read before it out of a song."""
        start_s = self.segment.start_s - self.segment.lead_s
        end_s = self.segment.start_s + self.segment.duration_s
        return song_SCT[..., round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]

    def _in_kind(self, stems_SCT: Tensor) -> Tensor:
        if self.stems == TRUE:
            return stems_SCT
        assert self._separate is not None
        return self._separate(stems_SCT.sum(0))


def read_dry(folder: Path) -> Tensor:
    """Read the dry stems of a whole song, dry_SCT, at the level that the generator mixed.

    Raises:
        DataError, AudioError: they are not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the dry stems of a song, found nothing")
    gain_db = read_record(folder / SETTINGS, DryLevel).gain_db
    return _read_stems(folder) * amplitude(gain_db)


def mix_settings(folder: Path) -> MixSettings:
    """Read what the generator did in a mix.

    Raises:
        DataError: its settings cannot be read.
    """
    path = folder / SETTINGS
    return MixSettings.from_values(read_mapping(path).get("mix"), str(path))


def _read_stems(folder: Path, start_s: float = 0.0, duration_s: float | None = None) -> Tensor:
    return torch.stack(
        [read_audio(folder / f"{s}.wav", start_s=start_s, duration_s=duration_s) for s in STEMS]
    )


@lru_cache(maxsize=1024)
def _sha256(folder: Path) -> list[str]:
    return [file_sha256(folder / name) for name in (SETTINGS, *(f"{s}.wav" for s in STEMS))]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Answerer of the questions: a method, or a reference that knows more than one may.

    Attributes:
        name: for tables.
        find: gives the output's stems_SCT.
        made_with: what it follows from beside the question, as JSON holds it.
        only_raw: whether it is asked of dry stems alone.
        max_cases: of how many cases of a kind it is asked; None: of all.
    """

    name: str
    find: Callable[[Question], Tensor]
    made_with: Mapping[str, Any]
    only_raw: bool = False
    max_cases: int | None = None


def blind(name: str, method: Method, made_with: Mapping[str, Any]) -> Answer:
    """Return a method as an answer: it gets the stems of input and target and nothing else."""
    return Answer(
        name=name, find=lambda q: method(q.input_stems, q.target_stems), made_with=made_with
    )


def run_benchmark(
    cases: Sequence[Case],
    answers: Sequence[Answer],
    *,
    kinds: Sequence[Kind],
    standardisation: Standardisation,
    separate: Separate | None,
    segment: Segment,
    finished: Finished,
    made_with: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Ask every question of every case.

    Args:
        cases: see `draw_cases`.
        answers: who is asked; `BASELINES` are always asked as well.
        kinds: of questions.
        standardisation: of the feature distance.
        separate: takes a mixture apart; None leaves out the separated stems.
        segment: what is heard of all songs.
        finished: keeps each row; what is there is not asked again.
        made_with: what all rows follow from: fingerprints of standardisation and separator.

    Returns:
        one row per kind, kind of stems, case and answer: `kind`, `stems`, `case`, `song`, `method`,
        `seconds` that the answer took, and the `MEASURES`.
    """
    common = {**made_with, "code": code_version("mixprint.evaluation.transfer_benchmark")}
    baselines = [blind(name, method, {"baseline": name}) for name, method in BASELINES.items()]
    asked = [*baselines, *answers]
    kinds_of_stems = [
        (kind, stems)
        for kind in kinds
        for stems in kind.stems
        if stems == TRUE or separate is not None
    ]
    rows = []
    with Progress(
        log, "measured", total=len(kinds_of_stems) * len(cases), unit="questions"
    ) as shown:
        for kind, stems in kinds_of_stems:
            for number, case in enumerate(cases):
                size = kind.room_sizes[number % len(kind.room_sizes)]
                question = Question(case, kind, stems, size, segment, separate)
                for answer in asked:
                    if answer.only_raw and not kind.is_raw:
                        continue
                    if answer.max_cases is not None and number >= answer.max_cases:
                        continue
                    row = {"kind": kind.name, "stems": stems, "case": number}
                    row |= {"song": case.input_song, "method": answer.name}
                    key = {**common, "question": question.made_with, "answer": answer.made_with}
                    measured = finished.result(
                        key, partial(_measured, question, answer, standardisation)
                    )
                    rows.append(row | measured)
                shown.advance()
    return rows


def _measured(
    question: Question, answer: Answer, standardisation: Standardisation
) -> dict[str, float]:
    # Read, rendered and separated before the clock starts.
    _ = question.input_stems, question.target_stems, question.truth_stems
    started_s = time.perf_counter()
    output_SCT = answer.find(question)
    seconds = time.perf_counter() - started_s
    measured = distances(output_SCT, question.truth_stems, question.truth_mix, standardisation)
    return {"seconds": seconds, **measured}


def do_nothing(input_SCT: Tensor, _target_SCT: Tensor) -> Tensor:
    """Leave the input as it is."""
    return input_SCT


def match_loudness(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
    """Bring the whole mix to the target's integrated loudness."""
    gain_db = _lufs(target_SCT.sum(0)) - _lufs(input_SCT.sum(0))
    return input_SCT * amplitude(gain_db)


def match_spectrum(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
    """Equalise the whole mix to the target's mean spectrum in thirds of an octave, then its level.

    A linear-phase filter, at most 15 dB up or down in a band.
    """
    hz_F = torch.fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE_HZ)
    levels_db = []
    for stems_SCT in (input_SCT, target_SCT):
        power_F = power_spectrum(stems_SCT.sum(0)).mean(0)
        # The lowest thirds are narrower than a bin: take what lies nearest.
        parts = [
            power_F[(hz_F - centre).abs() <= max(centre * (2 ** (1 / 6) - 1), hz_F[1] / 2)].mean()
            for centre in _THIRDS_HZ
        ]
        levels_db.append(10 * torch.log10(torch.stack(parts).clamp_min(1e-12)))
    band_db_K = (levels_db[1] - levels_db[0]).clamp(-_MAX_EQ_DB, _MAX_EQ_DB)
    gain_db_F = np.interp(
        np.log2(hz_F.numpy().clip(_THIRDS_HZ[0])), np.log2(_THIRDS_HZ), band_db_K.numpy()
    )
    gain_F = torch.from_numpy(amplitude(gain_db_F)).float()
    taps_L = torch.fft.irfft(gain_F).roll(WINDOW // 2) * hann_window()
    T = input_SCT.shape[-1]
    length = next_fast_len(T + WINDOW, real=True)
    product_SCF = torch.fft.rfft(input_SCT, n=length) * torch.fft.rfft(taps_L, n=length)
    filtered_SCT = torch.fft.irfft(product_SCF, n=length)[..., WINDOW // 2 :][..., :T]
    return match_loudness(filtered_SCT, target_SCT)


def _lufs(audio_CT: Tensor) -> float:
    return loudness_lufs(audio_CT, SAMPLE_RATE_HZ)


BASELINES: Mapping[str, Method] = {
    NOTHING: do_nothing,
    "loudness": match_loudness,
    "EQ and level": match_spectrum,
}


def summarise(
    rows: Sequence[Mapping[str, Any]], *, num_bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Gather the rows of `run_benchmark`.

    Returns:
        per kind, kind of stems and method: `kind`, `stems`, `method`, `cases`, `seconds` (the
        median), each of the `MEASURES` as the median over the cases with its 95 % interval (whole
        songs resampled), and `nearer`, by each of `NEARER_BY` the share of the cases that are
        nearer to the truth than the input is.
    """
    found = []
    for (kind, stems), group in _grouped(rows, ("kind", "stems")).items():
        untouched = {row["case"]: row for row in group if row["method"] == NOTHING}
        for (method,), own in _grouped(group, ("method",)).items():
            song_Q = _songs(own)
            medians = {
                name: bootstrap(
                    np.array([[row[name]] for row in own]),
                    song_Q,
                    lambda values_Q1: float(np.median(values_Q1)),
                    num_bootstrap,
                    seed,
                )
                for name in MEASURES
            }
            nearer = {
                name: sum(row[name] < untouched[row["case"]][name] for row in own) / len(own)
                for name in NEARER_BY
            }
            about = {"kind": kind, "stems": stems, "method": method, "cases": len(own)}
            seconds = float(np.median([row["seconds"] for row in own]))
            found.append(about | {"seconds": seconds} | medians | {"nearer": nearer})
    return found


def paired_differences(
    rows: Sequence[Mapping[str, Any]], against: str, *, num_bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare each method with one of them on the cases that both answered.

    Args:
        rows: see `run_benchmark`.
        against: the method.
        num_bootstrap: resamples of the songs.
        seed: of the resampling.

    Returns:
        per kind, kind of stems and other method: `kind`, `stems`, `method`, `cases`, and for each
        of the `MEASURES` the mean difference, below 0 where the other method is nearer to the
        truth, with its 95 % interval (whole songs resampled).
    """
    found = []
    for (kind, stems), group in _grouped(rows, ("kind", "stems")).items():
        base = {row["case"]: row for row in group if row["method"] == against}
        for (method,), answered in _grouped(group, ("method",)).items():
            own = [row for row in answered if row["case"] in base]
            if method == against or not own:
                continue
            song_Q = _songs(own)
            differences: dict[str, Estimate] = {
                name: bootstrap_mean(
                    np.array([row[name] - base[row["case"]][name] for row in own]),
                    song_Q,
                    num_bootstrap,
                    seed,
                )
                for name in MEASURES
            }
            about = {"kind": kind, "stems": stems, "method": method, "cases": len(own)}
            found.append(about | differences)
    return found


def _songs(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.unique([row["song"] for row in rows], return_inverse=True)[1]


def _grouped(
    rows: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups
