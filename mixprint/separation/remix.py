"""Training examples for a separator: excerpts of stems, remixed across songs and altered.

Songs lie as in MUSDB18-HQ: a folder per song with one file per stem. What an example looks like
depends on the seed and the step alone, so that a resumed training sees what an undisturbed one
would have seen.

Shape suffixes: B batch, S stem (in the order of `STEMS`), C channel, T sample, F frequency row.
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mixprint.atomic import read_json
from mixprint.errors import ConfigError, DataError
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ, STEMS

log = logging.getLogger("mixprint.separation.remix")

SETTINGS_FILE = "settings.json"
MIXTURE = "mixture"
SILENCE_RMS = 1e-4  # below this a clip has no level that could be set
EQUALISER_LOWEST_HZ = 10.0
EQUALISER_NODES = 6
CLIP_STREAM, EQUALISER_STREAM = 0, 1  # random numbers that do not depend on each other


@dataclass(frozen=True)
class Song:
    """A song with its true stems.

    Attributes:
        path: folder with `vocals.wav`, `bass.wav`, `drums.wav`, `other.wav`.
        composition: what the song is a mix of; all mixes of it go to one side of the split.
        num_samples: length of the shortest stem.
    """

    path: Path
    composition: str
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class RemixConfig:
    """How examples are made. Probabilities are per stem unless it says otherwise.

    A *remix* takes each stem from a song and a position of its own; else an example is an
    excerpt of one song, whose stems keep their levels about each other.

    Attributes:
        remix_probability: per example.
        level_dbfs: RMS that the stems of a remix are brought to.
        level_range_db: -+ this about `level_dbfs`, drawn per stem.
        gain_range_db: gain of each stem of one song, -+ this.
        speed_probability: in a remix, change speed and pitch together.
        speed_range_semitones: by -+ this.
        double_other_probability: in a remix, add a second clip to `other`: real arrangements are
            denser than one layer.
        double_vocals_probability: likewise, to `vocals`.
        double_range_db: level of the second clip relative to the first, lowest and highest.
        saturation_probability: in a remix, distort.
        saturation_drive: least and most gain into the distortion of a clip at full scale.
        width_probability: scale the difference of the channels.
        width_limit: by 0 (mono) to this.
        pan_probability: lower each channel on its own.
        pan_lowest_gain: to this at most.
        swap_probability: swap the channels.
        invert_probability: invert the polarity.
        dropout_probability: replace by silence; one stem at least stays.
        equaliser_probability: shape the spectrum by a smooth random curve.
        equaliser_range_db: height of the curve, -+ this.
        lowpass_probability: per example, cut all stems at one frequency, as lossy coding does.
        lowpass_hz: lowest and highest such frequency.
    """

    remix_probability: float = 0.75
    level_dbfs: float = -22.0
    level_range_db: float = 7.0
    gain_range_db: float = 5.0
    speed_probability: float = 0.5
    speed_range_semitones: float = 3.5
    double_other_probability: float = 0.4
    double_vocals_probability: float = 0.15
    double_range_db: tuple[float, float] = (-8.0, 3.0)
    saturation_probability: float = 0.12
    saturation_drive: tuple[float, float] = (2.0, 12.0)
    width_probability: float = 0.25
    width_limit: float = 1.8
    pan_probability: float = 0.2
    pan_lowest_gain: float = 0.4
    swap_probability: float = 0.5
    invert_probability: float = 0.5
    dropout_probability: float = 0.08
    equaliser_probability: float = 0.6
    equaliser_range_db: float = 7.0
    lowpass_probability: float = 0.1
    lowpass_hz: tuple[float, float] = (11_000.0, 20_000.0)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ConfigError(f"remix.{name}: expected 0 to 1, found {value}")
            if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
                raise ConfigError(f"remix.{name}: expected lowest and highest, found {value}")
            if (
                name.endswith(("_range_db", "_semitones"))
                and not isinstance(value, tuple)
                and (value < 0)
            ):
                raise ConfigError(f"remix.{name}: expected 0 or more, found {value}")


def find_songs(folder: Path) -> list[Song]:
    """List the songs under a folder, at any depth, by path.

    Raises:
        DataError: there are none, or a stem is unreadable, has another sampling rate or more
            than two channels.
    """
    songs = [_song(file.parent) for file in sorted(folder.rglob(f"{STEMS[0]}.wav"))]
    if not songs:
        raise DataError(f"{folder}: expected folders with {STEMS[0]}.wav, found none")
    return songs


def _song(path: Path) -> Song:
    lengths = []
    for stem in STEMS:
        file = path / f"{stem}.wav"
        try:
            info = sf.info(file)
        except (sf.LibsndfileError, OSError) as error:
            raise DataError(f"{file}: expected a readable stem, found: {error}") from error
        if info.samplerate != SAMPLE_RATE_HZ or info.channels > NUM_CHANNELS:
            raise DataError(
                f"{file}: expected {SAMPLE_RATE_HZ} Hz and at most {NUM_CHANNELS} channels, "
                f"found {info.samplerate} Hz and {info.channels}"
            )
        lengths.append(info.frames)
    settings = path / SETTINGS_FILE
    composition = read_json(settings).get("song", path.name) if settings.exists() else path.name
    return Song(path, composition, min(lengths))


def split_songs(songs: Sequence[Song], num_valid: int) -> tuple[list[Song], list[Song]]:
    """Hold out songs for validation, whole compositions only.

    Args:
        songs: the songs.
        num_valid: how many compositions are held out: the first by a hash of their name.

    Returns:
        songs to train on, songs held out.

    Raises:
        DataError: nothing would be left to train on.
    """
    names = sorted(
        {song.composition for song in songs}, key=lambda n: hashlib.sha256(n.encode()).hexdigest()
    )
    if num_valid >= len(names):
        raise DataError(
            f"expected more than {num_valid} compositions to hold out {num_valid}, "
            f"found {len(names)}"
        )
    held_out = set(names[:num_valid])
    train = [song for song in songs if song.composition not in held_out]
    return train, [song for song in songs if song.composition in held_out]


def read_stems(song: Song, start: int = 0, num_samples: int | None = None) -> Tensor:
    """Read an excerpt of all stems.

    Args:
        song: the song.
        start: first sample.
        num_samples: length; to the end of the shortest stem when None.

    Returns:
        stems_SCT in the order of `STEMS`.
    """
    if num_samples is None:
        num_samples = song.num_samples - start
    return torch.stack([_read(song, stem, start, num_samples) for stem in STEMS])


def read_mixture(song: Song, start: int = 0, num_samples: int | None = None) -> Tensor:
    """Read an excerpt of the mixture: of `mixture.wav` if it is there, else the stems' sum.

    A released mixture was mastered and is not quite the sum of its stems.

    Args:
        song: the song.
        start: first sample.
        num_samples: length; to the end of the shortest stem when None.

    Returns:
        mixture_CT.
    """
    if not (song.path / f"{MIXTURE}.wav").exists():
        return read_stems(song, start, num_samples).sum(dim=0)
    return _read(song, MIXTURE, start, num_samples or song.num_samples - start)


def _read(song: Song, stem: str, start: int, num_samples: int) -> Tensor:
    audio_TC, _ = sf.read(
        song.path / f"{stem}.wav",
        frames=num_samples,
        start=start,
        dtype="float32",
        always_2d=True,
    )
    if len(audio_TC) != num_samples:
        raise DataError(
            f"{song.path / stem}.wav: expected {num_samples} samples from {start} on, "
            f"found {len(audio_TC)}"
        )
    return torch.from_numpy(audio_TC).T.expand(NUM_CHANNELS, -1)


class Remixer:
    """Makes batches of stems; their sum is the mixture that the separator is shown."""

    def __init__(
        self, songs: Sequence[Song], config: RemixConfig, *, num_samples: int, seed: int
    ) -> None:
        """Choose the songs that are long enough.

        Args:
            songs: songs to draw from.
            config: how examples are made.
            num_samples: length of an example.
            seed: same seed, songs and config: same batches.

        Raises:
            DataError: no song is long enough.
        """
        # A clip that is to be slowed down starts out shorter, one to be sped up longer.
        self._longest = math.ceil(num_samples * 2 ** (config.speed_range_semitones / 12)) + 1
        self.songs = [song for song in songs if song.num_samples >= self._longest]
        if not self.songs:
            raise DataError(
                f"expected songs of at least {self._longest / SAMPLE_RATE_HZ:.1f} s, found "
                f"{len(songs)} shorter ones"
            )
        if len(self.songs) < len(songs):
            log.warning("left out %d songs that are too short", len(songs) - len(self.songs))
        self.config = config
        self.num_samples = num_samples
        self.seed = seed

    def batch(self, step: int, batch_size: int) -> Tensor:
        """Make the batch of one step.

        Returns:
            stems_BSCT in the order of `STEMS`.
        """
        return torch.stack([self._example(step, index) for index in range(batch_size)])

    def equalisers(self, step: int, batch_size: int, num_bins: int) -> Tensor:
        """Make the spectral gains of one step, to be applied to the STFT of `batch`.

        They are applied there because a trainer takes the STFT anyway: it costs nothing.

        Returns:
            gain_BSF, factors for rows from 0 Hz to half the sampling rate.
        """
        config = self.config
        hz_F = torch.linspace(0, SAMPLE_RATE_HZ / 2, num_bins)
        gain_BSF = torch.ones(batch_size, NUM_STEMS, num_bins)
        for index in range(batch_size):
            rng = self._rng(step, index, EQUALISER_STREAM)
            for stem in range(NUM_STEMS):
                nodes_db = rng.uniform(-1, 1, EQUALISER_NODES) * config.equaliser_range_db
                if rng.random() < config.equaliser_probability:
                    gain_BSF[index, stem] = _smooth_curve(hz_F, nodes_db)
            lowpass_hz = rng.uniform(*config.lowpass_hz)
            if rng.random() < config.lowpass_probability:
                gain_BSF[index, :, hz_F > lowpass_hz] = 0
        return gain_BSF

    def _rng(self, step: int, index: int, stream: int) -> Generator:
        """Return the source of one example's random numbers, independent of all others."""
        return np.random.default_rng([self.seed, stream, step, index])

    def _example(self, step: int, index: int) -> Tensor:
        rng = self._rng(step, index, CLIP_STREAM)
        config = self.config
        remixed = rng.random() < config.remix_probability
        song, start = self._position(rng)
        kept_S = rng.random(NUM_STEMS) >= config.dropout_probability
        kept_S[rng.integers(NUM_STEMS)] |= not kept_S.any()
        stems = []
        for stem, keep in zip(STEMS, kept_S, strict=True):
            if not keep:
                stems.append(torch.zeros(NUM_CHANNELS, self.num_samples))
                continue
            if remixed:
                clip_CT = self._remixed_clip(rng, stem)
            else:
                gain_db = rng.uniform(-1, 1) * config.gain_range_db
                clip_CT = _read(song, stem, start, self.num_samples) * 10 ** (gain_db / 20)
            stems.append(self._placed(rng, clip_CT))
        return torch.stack(stems)

    def _position(self, rng: Generator) -> tuple[Song, int]:
        song = self.songs[rng.integers(len(self.songs))]
        return song, int(rng.integers(song.num_samples - self._longest + 1))

    def _remixed_clip(self, rng: Generator, stem: str) -> Tensor:
        """Take a clip of the stem from anywhere, at a level of its own."""
        config = self.config
        clip_CT = self._anywhere(rng, stem)
        double_probability = {
            "other": config.double_other_probability,
            "vocals": config.double_vocals_probability,
        }.get(stem, 0.0)
        if rng.random() < double_probability:
            gain = 10 ** (rng.uniform(*config.double_range_db) / 20)
            clip_CT = clip_CT + gain * self._anywhere(rng, stem)
        rms = clip_CT.square().mean().sqrt().item()
        if rms < SILENCE_RMS:
            return clip_CT
        level_db = config.level_dbfs + rng.uniform(-1, 1) * config.level_range_db
        drive = rng.uniform(*config.saturation_drive)
        if rng.random() < config.saturation_probability:
            clip_CT = torch.tanh(clip_CT * drive)
            rms = clip_CT.square().mean().sqrt().item()
        return clip_CT * (10 ** (level_db / 20) / rms)

    def _anywhere(self, rng: Generator, stem: str) -> Tensor:
        """Read a clip of the stem from any song and position, perhaps at another speed."""
        song, start = self._position(rng)
        semitones = rng.uniform(-1, 1) * self.config.speed_range_semitones
        if rng.random() >= self.config.speed_probability:
            return _read(song, stem, start, self.num_samples)
        clip_CT = _read(song, stem, start, round(self.num_samples * 2 ** (semitones / 12)))
        # Linear interpolation dulls the highest octave a little and costs a tenth of a proper
        # resampler. The clip is the target as well, so that nothing is learned wrong from it.
        return functional.interpolate(clip_CT[None], size=self.num_samples, mode="linear")[0]

    def _placed(self, rng: Generator, clip_CT: Tensor) -> Tensor:
        """Alter width, balance, sides and polarity."""
        config = self.config
        width = rng.uniform(0, config.width_limit)
        gains = rng.uniform(config.pan_lowest_gain, 1, NUM_CHANNELS).astype(np.float32)
        if rng.random() < config.width_probability:
            mid_CT = clip_CT.mean(dim=0, keepdim=True)
            clip_CT = mid_CT + (clip_CT - mid_CT) * width
        if rng.random() < config.pan_probability:
            clip_CT = clip_CT * torch.from_numpy(gains).unsqueeze(1)
        if rng.random() < config.swap_probability:
            clip_CT = clip_CT.flip(0)
        return -clip_CT if rng.random() < config.invert_probability else clip_CT


def _smooth_curve(hz_F: Tensor, nodes_db: NDArray[np.float64]) -> Tensor:
    """Return gains through nodes that lie evenly in octaves, joined by half cosines."""
    octaves = math.log2(SAMPLE_RATE_HZ / 2 / EQUALISER_LOWEST_HZ)
    octave_F = (hz_F.clamp_min(EQUALISER_LOWEST_HZ) / EQUALISER_LOWEST_HZ).log2()
    position_F = octave_F * ((len(nodes_db) - 1) / octaves)
    left_F = position_F.floor().long().clamp(max=len(nodes_db) - 2)
    share_F = (1 - torch.cos(math.pi * (position_F - left_F))) / 2
    nodes = torch.from_numpy(nodes_db).float()
    return torch.pow(10.0, torch.lerp(nodes[left_F], nodes[left_F + 1], share_F) / 20)
