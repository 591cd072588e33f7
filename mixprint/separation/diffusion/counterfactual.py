"""Checks of a separator by what it makes of audio that is otherwise: no vocals, others, softer.

They are for any separator that gives vocals. Its instrumental is taken to be the mixture less the
vocals, which for a diffusion separator it is. All but the calibration are levels in dB of what
should not be there, so lower is better.

Shape suffixes: K sample, S stem, C channel, T sample.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixprint.progress import progress
from mixprint.separation.diffusion.model import VOCALS
from mixprint.separation.material.songs import find_songs, read_stems
from mixprint.separation.metrics import SILENCE_DBFS
from mixprint.separation.nulltest import FLOOR_DB, NullTest, power_db
from mixprint.separation.separator import Separator, song_level
from mixprint.separation.source import diffusion_network
from mixprint.stems import STEMS
from mixprint.text import shown

if TYPE_CHECKING:
    from mixprint.separation.diffusion.separator import DiffusionSeparator

log = logging.getLogger("mixprint.separation.counterfactual")

GAIN = 0.1
BATCH_SIZE = 4
BLOCK_SAMPLES = 33_333  # of another cut of the stream
NUM_SAMPLES = 4
CALIBRATION = "calibration"


@dataclass(frozen=True)
class Check:
    """One kind of finding.

    Attributes:
        what: is measured.
        most_db: what a diffusion separator keeps to; None: how low it is depends on training and
            songs.
    """

    what: str
    most_db: float | None = None


# Silence stays silent, and a seed repeats, to the bit: nothing is left of it.
CHECKS: Mapping[str, Check] = {
    "no_vocals": Check("vocals out of the true instrumental, relative to it"),
    "only_vocals": Check("instrumental out of the true vocals, relative to them"),
    "intervention": Check("change of the instrumental when others sing, relative to it"),
    "null": Check("sum of the stems less the mixture, relative to it", -120.0),
    "gain": Check("change of the stems when all is 20 dB softer, relative to them", -60.0),
    "silence": Check("peak of what comes out of silence, in dBFS", FLOOR_DB),
    "batch": Check("change of the stems in batches of four windows", -100.0),
    "cut": Check("change of the stems when the stream is cut elsewhere", -100.0),
    "same_seed": Check("change of the stems at a second run", FLOOR_DB),
    "other_seed": Check("change of the vocals with another seed, relative to them"),
    CALIBRATION: Check("variance of the samples / error of their mean, as a ratio; 1 is right"),
}

# check -> its value; without those that say nothing of the separator or the excerpt.
Findings = dict[str, float]


@dataclass(frozen=True, eq=False)
class Excerpt:
    """Audio whose vocals are known; the mixture is the sum.

    Attributes:
        name: of the song.
        vocals_CT: true vocals.
        instrumental_CT: the true rest.
    """

    name: str
    vocals_CT: Tensor
    instrumental_CT: Tensor

    def mixture(self) -> Tensor:
        """Return the sum."""
        return self.vocals_CT + self.instrumental_CT


def read_excerpts(folders: Iterable[Path], duration_s: float, sample_rate_hz: int) -> list[Excerpt]:
    """Read the middle of songs with true stems.

    Args:
        folders: see `mixprint.separation.material.songs.find_songs`.
        duration_s: of an excerpt; shorter songs are taken whole.
        sample_rate_hz: of the songs.

    Raises:
        DataError: a folder holds no song, or a stem cannot be read.
    """
    excerpts = []
    for song in (song for folder in folders for song in find_songs(folder)):
        length = min(song.num_samples, round(duration_s * sample_rate_hz))
        stems_SCT = read_stems(song, (song.num_samples - length) // 2, length)
        vocals = STEMS.index(VOCALS)
        others_SCT = torch.cat([stems_SCT[:vocals], stems_SCT[vocals + 1 :]])
        excerpts.append(Excerpt(shown(song.path.name), stems_SCT[vocals], others_SCT.sum(dim=0)))
    return excerpts


def check_separator(
    separator: Separator, excerpts: Sequence[Excerpt], *, num_samples: int = NUM_SAMPLES
) -> Iterator[Findings]:
    """Make all checks on each excerpt.

    Args:
        separator: gives vocals.
        excerpts: see `other_vocals`.
        num_samples: for the calibration; 0 leaves it out.

    Yields:
        the findings of each excerpt.
    """
    for number, excerpt in enumerate(progress(excerpts, len(excerpts), "checked", "songs", log)):
        others_CT = other_vocals(excerpts, number)
        yield check_excerpt(separator, excerpt, others_CT, num_samples=num_samples)


def other_vocals(excerpts: Sequence[Excerpt], number: int) -> Tensor:
    """Return the vocals of the excerpt behind one; of a single excerpt its own, backwards."""
    if len(excerpts) == 1:
        return excerpts[0].vocals_CT.flip(-1)
    return excerpts[(number + 1) % len(excerpts)].vocals_CT


def check_excerpt(
    separator: Separator, excerpt: Excerpt, others_CT: Tensor, *, num_samples: int = NUM_SAMPLES
) -> Findings:
    """Make all checks on an excerpt.

    Args:
        separator: gives vocals.
        excerpt: the excerpt.
        others_CT: vocals of another song, of any length.
        num_samples: see `check_separator`.
    """
    mixture_CT = excerpt.mixture()
    stems_SCT = separator.separate(mixture_CT)
    null = NullTest()
    null.add(stems_SCT, mixture_CT)
    soft_SCT = separator.separate(GAIN * mixture_CT)
    silent_SCT = separator.separate(torch.zeros_like(mixture_CT))
    batch_SCT = separator.separate(mixture_CT, batch_size=BATCH_SIZE)
    return {
        **_of_truth(separator, excerpt, others_CT),
        "null": null.depth_db,
        "gain": change_db(soft_SCT, GAIN * stems_SCT),
        "silence": _bounded_db(silent_SCT.abs().max().item() ** 2),
        "batch": change_db(batch_SCT, stems_SCT),
        "cut": change_db(_cut_elsewhere(separator, mixture_CT), stems_SCT),
        **_of_samples(separator, excerpt, stems_SCT, num_samples),
    }


def change_db(found: Tensor, expected: Tensor) -> float:
    """Level of a difference relative to what was expected; `FLOOR_DB` if no bit differs."""
    return level_db(found.double() - expected.double(), expected)


def level_db(audio: Tensor, reference: Tensor) -> float:
    """Level of audio relative to other audio, from `FLOOR_DB` to its opposite."""
    power, whole = audio.double().square().sum().item(), reference.double().square().sum().item()
    if whole == 0.0:
        return -FLOOR_DB if power else FLOOR_DB
    return _bounded_db(power / whole)


def calibration(samples_KCT: Tensor, truth_CT: Tensor) -> float:
    """Compare what samples say of the error of their mean with that error.

    If the truth is as likely to be drawn as they are, the error of the mean of K samples is their
    variance times 1 + 1/K.

    Args:
        samples_KCT: two or more.
        truth_CT: what they are samples of.

    Returns:
        1 for samples that are right; less for those that are too sure.
    """
    samples_KCT = samples_KCT.double()
    expected = samples_KCT.var(dim=0).sum().item() * (1 + 1 / len(samples_KCT))
    error = (samples_KCT.mean(dim=0) - truth_CT.double()).square().sum().item()
    return expected / error if error else math.inf


def draw_samples(separator: Separator, audio_CT: Tensor, num_samples: int) -> Tensor:
    """Draw vocals with seeds that follow each other: samples_KCT.

    Args:
        separator: by diffusion; how many samples it averages is not looked at.
        audio_CT: the mixture.
        num_samples: how many.
    """
    network = diffusion_network(separator)
    assert network is not None
    drawn = []
    for number in range(num_samples):
        other = _with_seed(network, network.sampling.seed + number)
        drawn.append(vocals_of(Separator(other, precision=separator.precision), audio_CT))
    return torch.stack(drawn)


def vocals_of(separator: Separator, audio_CT: Tensor) -> Tensor:
    """Separate, and return vocals_CT."""
    return separator.separate(audio_CT)[separator.stems.index(VOCALS)]


def is_kept(name: str, value: float) -> bool | None:
    """Tell whether a diffusion separator keeps to its limit; None: there is none."""
    limit = CHECKS[name].most_db
    return None if limit is None else value <= limit


def summary(findings: Sequence[Findings]) -> dict[str, dict[str, float]]:
    """Summarise findings of several excerpts.

    Returns:
        check -> `mean` and `worst`; of the calibration the geometric mean, and what is farthest
        from 1.
    """
    found = {}
    for name in CHECKS:
        values = [each[name] for each in findings if name in each]
        if not values:
            continue
        if name == CALIBRATION:
            logs = [math.log(value) for value in values]
            found[name] = {"mean": math.exp(fmean(logs)), "worst": math.exp(max(logs, key=abs))}
        else:
            found[name] = {"mean": fmean(values), "worst": max(values)}
    return found


def _of_truth(separator: Separator, excerpt: Excerpt, others_CT: Tensor) -> Findings:
    """Make the checks that say nothing where a part of the excerpt is silent."""
    found = {}
    vocals_CT, instrumental_CT = excerpt.vocals_CT, excerpt.instrumental_CT
    if not _is_silent(instrumental_CT):
        found["no_vocals"] = level_db(vocals_of(separator, instrumental_CT), instrumental_CT)
    if not _is_silent(vocals_CT):
        rest_CT = vocals_CT - vocals_of(separator, vocals_CT)
        found["only_vocals"] = level_db(rest_CT, vocals_CT)
    others_CT = _fitted(others_CT, vocals_CT)
    if not any(map(_is_silent, (vocals_CT, others_CT, instrumental_CT))):
        changed_CT = instrumental_CT + others_CT
        before_CT = excerpt.mixture() - vocals_of(separator, excerpt.mixture())
        after_CT = changed_CT - vocals_of(separator, changed_CT)
        found["intervention"] = level_db(after_CT - before_CT, instrumental_CT)
    return found


def _of_samples(
    separator: Separator, excerpt: Excerpt, stems_SCT: Tensor, num_samples: int
) -> Findings:
    """Make the checks of what is drawn at random."""
    network = diffusion_network(separator)
    if network is None:
        return {}
    mixture_CT = excerpt.mixture()
    found = {"same_seed": change_db(separator.separate(mixture_CT), stems_SCT)}
    if num_samples > 1:
        samples_KCT = draw_samples(separator, mixture_CT, num_samples)
        found["other_seed"] = change_db(samples_KCT[1], samples_KCT[0])
        if not _is_silent(excerpt.vocals_CT):
            ratio = calibration(samples_KCT, excerpt.vocals_CT)
            if 0 < ratio < math.inf:
                found[CALIBRATION] = ratio
    return found


def _with_seed(network: "DiffusionSeparator", seed: int) -> "DiffusionSeparator":
    return network.configured(sampling=replace(network.sampling, seed=seed, samples=1))


def _cut_elsewhere(separator: Separator, audio_CT: Tensor) -> Tensor:
    """Separate as a stream of other blocks: stems_SCT."""
    level = song_level([audio_CT]) if separator.normalised else None
    pieces = separator.stream(audio_CT.split(BLOCK_SAMPLES, dim=1), level=level)
    return torch.cat([stems_SCT for _, stems_SCT in pieces], dim=-1)


def _fitted(audio_CT: Tensor, like_CT: Tensor) -> Tensor:
    """Bring audio to the length, by repeating or cutting it, and to the level of other audio."""
    length = like_CT.shape[-1]
    audio_CT = audio_CT.repeat(1, -(-length // audio_CT.shape[-1]))[:, :length]
    power = audio_CT.double().square().sum()
    gain = (like_CT.double().square().sum() / power).sqrt() if power > 0 else power
    return (gain * audio_CT).float()


def _is_silent(audio_CT: Tensor) -> bool:
    return power_db(audio_CT.double().square().mean().item()) < SILENCE_DBFS


def _bounded_db(power: float) -> float:
    return min(max(power_db(power), FLOOR_DB), -FLOOR_DB)
