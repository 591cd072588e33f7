"""Transfer measured against the true answer, which generated songs have.

Song X mixed in style A is the input, song Y in style B the target. X in style B is the truth; no
method ever hears it. Each method is asked for its output with the true stems of input and target,
and with stems that a separator takes out of the mixtures, so that the separator's share of the
error is seen.

Measured is how far the output lies from the truth:

| measure | unit | meaning |
| --- | --- | --- |
| `stft` | 1 | spectra of the mixes at several resolutions (`transfer.spectral_loss`) |
| `features` | standard deviations | root mean square difference of the 64 features |
| `loudness_lu` | LU | of the mixes, integrated |
| `stereo_db` | dB | side over mid, and left over right, of the mixes in three ranges |

Features are those of stems: true ones are compared with the truth's true stems, separated ones
with what the separator takes out of the truth.

Shape suffixes: S stem, C channel (left, right), T sample, F frequency bin, K band, L tap.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.collection.sources import SETTINGS
from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.errors import DataError
from mixprint.evaluation.retrieval import Estimate, bootstrap
from mixprint.features import Standardisation, extract, feature_distance
from mixprint.features.level import power_ratio_db
from mixprint.features.schema import BAND_EDGES_HZ
from mixprint.progress import progress
from mixprint.schema import WithOthers, read_record
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.exact import Rng

log = logging.getLogger("mixprint.evaluation")

# Makes input stems sound like the target's: (input_stems_SCT, target_stems_SCT) -> stems_SCT.
Method = Callable[[Tensor, Tensor], Tensor]

MEASURES: Mapping[str, str] = {
    "stft": "1",
    "features": "standard deviations",
    "loudness_lu": "LU",
    "stereo_db": "dB",
}
"""Measure -> unit; 0 is the truth itself."""

TRUE, SEPARATED = "true", "separated"
NOTHING = "nothing"

_WINDOW = 8192
# Thirds of an octave from 31.5 Hz to 16 kHz, as on a graphic equaliser.
_THIRDS_HZ = [1000.0 * 2.0 ** (n / 3) for n in range(-15, 13)]
_MAX_EQ_DB = 15.0


@dataclass(frozen=True)
class Case:
    """One question: the folders of the three mixes, as `mixprint.synthesis` writes them."""

    input: Path
    target: Path
    truth: Path
    input_song: str


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
        if truth.split == split:
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


def run_benchmark(
    cases: Sequence[Case],
    methods: Mapping[str, Method],
    *,
    standardisation: Standardisation,
    separate: Callable[[Tensor], Tensor] | None,
    start_s: float,
    duration_s: float,
) -> list[dict[str, Any]]:
    """Ask every method about every case.

    Args:
        cases: see `draw_cases`.
        methods: name -> method; `BASELINES` are always asked as well.
        standardisation: of the feature distance.
        separate: takes a mixture apart; None leaves out the separated stems.
        start_s: where the segment starts, in all songs.
        duration_s: how long it is.

    Returns:
        one row per case, kind of stems (`true`, `separated`) and method: `case`, `song`, `stems`,
        `method` and the `MEASURES`.
    """
    rows = []
    for number, case in enumerate(progress(cases, len(cases), "measured", "cases", log)):
        kinds = {TRUE: [_true_stems(f, start_s, duration_s) for f in _folders(case)]}
        truth_CT = kinds[TRUE][2].sum(0)
        if separate is not None:
            kinds[SEPARATED] = [separate(stems_SCT.sum(0)) for stems_SCT in kinds[TRUE]]
        for kind, (input_SCT, target_SCT, truth_SCT) in kinds.items():
            for name, method in {**BASELINES, **methods}.items():
                output_SCT = method(input_SCT, target_SCT)
                measured = distances(output_SCT, truth_SCT, truth_CT, standardisation)
                row = {"case": number, "song": case.input_song, "stems": kind, "method": name}
                rows.append(row | measured)
    return rows


def _folders(case: Case) -> tuple[Path, Path, Path]:
    return case.input, case.target, case.truth


def _true_stems(folder: Path, start_s: float, duration_s: float) -> Tensor:
    return torch.stack(
        [read_audio(folder / f"{s}.wav", start_s=start_s, duration_s=duration_s) for s in STEMS]
    )


@torch.no_grad()
def distances(
    output_SCT: Tensor, truth_SCT: Tensor, truth_CT: Tensor, standardisation: Standardisation
) -> dict[str, float]:
    """Measure how far an output lies from the truth; see the module's docstring.

    Args:
        output_SCT: the stems of the output; their sum is its mix.
        truth_SCT: the stems of the truth, of the same kind.
        truth_CT: the truth's mix.
        standardisation: of the features.
    """
    output_CT = output_SCT.sum(0)
    features_2D = extract(torch.stack([output_SCT, truth_SCT]), SAMPLE_RATE_HZ)
    found: dict[str, Tensor | float] = {
        "stft": multi_resolution_stft(output_CT, truth_CT),
        "features": feature_distance(features_2D[:1], features_2D[1:], standardisation).squeeze(),
        "loudness_lu": abs(_lufs(output_CT) - _lufs(truth_CT)),
        "stereo_db": (_stereo_db(output_CT) - _stereo_db(truth_CT)).abs().mean(),
    }
    return {name: float(value) for name, value in found.items()}


def _lufs(audio_CT: Tensor) -> float:
    return loudness_lufs(audio_CT, SAMPLE_RATE_HZ)


def _stereo_db(audio_CT: Tensor) -> Tensor:
    """Return side over mid, then left over right, in each range of `BAND_EDGES_HZ`, limited."""
    left_T, right_T = audio_CT
    channels_4T = torch.stack([left_T, right_T, (left_T + right_T) / 2, (left_T - right_T) / 2])
    power_4F = _power_spectrum(channels_4T)
    hz_F = torch.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE_HZ)
    power_4K = torch.stack(
        [power_4F[:, (hz_F >= low) & (hz_F < high)].sum(1) for low, high in BAND_EDGES_HZ.values()],
        dim=1,
    )
    left_K, right_K, mid_K, side_K = power_4K
    return torch.cat([power_ratio_db(side_K, mid_K), power_ratio_db(left_K, right_K)])


def _power_spectrum(audio_CT: Tensor) -> Tensor:
    """Average power_CF over time."""
    window_T = _window()
    spectrum_CFN = torch.stft(
        audio_CT, _WINDOW, _WINDOW // 4, window=window_T, pad_mode="constant", return_complex=True
    )
    return spectrum_CFN.abs().square().mean(-1)


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(_WINDOW)


def do_nothing(input_SCT: Tensor, _target_SCT: Tensor) -> Tensor:
    """Leave the input as it is."""
    return input_SCT


def match_loudness(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
    """Bring the whole mix to the target's integrated loudness."""
    gain_db = _lufs(target_SCT.sum(0)) - _lufs(input_SCT.sum(0))
    return input_SCT * 10 ** (gain_db / 20)


def match_spectrum(input_SCT: Tensor, target_SCT: Tensor) -> Tensor:
    """Equalise the whole mix to the target's mean spectrum in thirds of an octave, then its level.

    A linear-phase filter, at most 15 dB up or down in a band.
    """
    hz_F = torch.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE_HZ)
    levels_db = []
    for stems_SCT in (input_SCT, target_SCT):
        power_F = _power_spectrum(stems_SCT.sum(0)).mean(0)
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
    gain_F = torch.from_numpy(10 ** (gain_db_F / 20)).float()
    taps_L = torch.fft.irfft(gain_F).roll(_WINDOW // 2) * _window()
    T = input_SCT.shape[-1]
    length = next_fast_len(T + _WINDOW, real=True)
    product_SCF = torch.fft.rfft(input_SCT, n=length) * torch.fft.rfft(taps_L, n=length)
    filtered_SCT = torch.fft.irfft(product_SCF, n=length)[..., _WINDOW // 2 :][..., :T]
    return match_loudness(filtered_SCT, target_SCT)


BASELINES: Mapping[str, Method] = {
    NOTHING: do_nothing,
    "loudness": match_loudness,
    "EQ and level": match_spectrum,
}


def summarise(
    rows: Sequence[Mapping[str, Any]], *, num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, dict[str, Estimate | float]]]:
    """Gather the rows of `run_benchmark`.

    Returns:
        stems -> method -> measure -> the median over the cases with its 95 % interval (whole songs
        resampled); and `nearer`, the share of the cases whose `stft` is nearer to the truth than
        the input is.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["stems"], row["method"]), []).append(row)
    found: dict[str, dict[str, dict[str, Estimate | float]]] = {}
    for (stems, method), group in groups.items():
        _, song_Q = np.unique([row["song"] for row in group], return_inverse=True)
        medians: dict[str, Estimate | float] = {
            name: bootstrap(
                np.array([[row[name]] for row in group]),
                song_Q,
                lambda values_Q1: float(np.median(values_Q1)),
                num_bootstrap,
                seed,
            )
            for name in MEASURES
        }
        untouched = {row["case"]: row["stft"] for row in groups[stems, NOTHING]}
        medians["nearer"] = sum(row["stft"] < untouched[row["case"]] for row in group) / len(group)
        found.setdefault(stems, {})[method] = medians
    return found
