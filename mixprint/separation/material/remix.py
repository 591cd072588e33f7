"""Training examples for a separator: excerpts of stems, remixed across songs and altered.

What an example looks like depends on the seed and the step alone, so that a resumed training sees
what an undisturbed one would have seen, and several processes together what one would have seen.

Shape suffixes: B batch, S stem (in the order of `STEMS`), C channel, T sample, F frequency row.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mixprint.errors import ConfigError, DataError
from mixprint.separation.material.songs import Song, UnreadableStemError, check_bad_songs, read_clip
from mixprint.stems import NUM_CHANNELS, NUM_STEMS, SAMPLE_RATE_HZ, STEMS

if TYPE_CHECKING:
    from mixprint.separation.material.pool import SongPool

log = logging.getLogger("mixprint.separation.remix")

SILENCE_RMS = 1e-4  # below this a clip has no level that could be set
EQUALISER_LOWEST_HZ = 10.0
EQUALISER_NODES = 6
CLIP_STREAM, EQUALISER_STREAM = 0, 1  # random numbers that do not depend on each other
MAX_ATTEMPTS = 10  # to draw an example from songs of which some are broken
MAX_TEMPO_RANGE = 0.5
# Of time stretching: 46 ms hold two periods of the lowest notes; 12 ms reach the next period.
FRAME_SAMPLES, SEARCH_SAMPLES = 2048, 512


@dataclass(frozen=True, kw_only=True)
class RemixConfig:
    """Parameters of examples. Probabilities are per stem unless it says otherwise.

    A *remix* takes each stem from a song and a position of its own; else an example is an
    excerpt of one song, whose stems keep their levels about each other.

    Attributes:
        remix_probability: per example.
        level_dbfs: RMS that the stems of a remix are brought to.
        level_range_db: -+ this about `level_dbfs`, drawn per stem.
        gain_range_db: gain of each stem of one song, -+ this.
        speed_probability: in a remix, change speed and pitch together.
        speed_range_semitones: by -+ this.
        tempo_probability: in a remix, change the tempo and keep the pitch. See `stretched`; it
            costs more than all else together.
        tempo_range: by -+ this part, at most 0.5.
        pitch_probability: in a remix, change the pitch and keep the tempo, likewise.
        pitch_range_semitones: by -+ this.
        shift_probability: in an excerpt of one song, take the stem from somewhat earlier or later.
        shift_range_s: by -+ this.
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

    remix_probability: float
    level_dbfs: float
    level_range_db: float
    gain_range_db: float
    speed_probability: float
    speed_range_semitones: float
    tempo_probability: float
    tempo_range: float
    pitch_probability: float
    pitch_range_semitones: float
    shift_probability: float
    shift_range_s: float
    double_other_probability: float
    double_vocals_probability: float
    double_range_db: tuple[float, float]
    saturation_probability: float
    saturation_drive: tuple[float, float]
    width_probability: float
    width_limit: float
    pan_probability: float
    pan_lowest_gain: float
    swap_probability: float
    invert_probability: float
    dropout_probability: float
    equaliser_probability: float
    equaliser_range_db: float
    lowpass_probability: float
    lowpass_hz: tuple[float, float]

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected 0 to 1, found {value}")
            if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
                raise ConfigError(f"{name}: expected lowest and highest, found {value}")
            if (
                name.endswith(("_range_db", "_semitones", "_range_s"))
                and not isinstance(value, tuple)
                and (value < 0)
            ):
                raise ConfigError(f"{name}: expected 0 or more, found {value}")
        if not 0 <= self.tempo_range <= MAX_TEMPO_RANGE:
            raise ConfigError(
                f"tempo_range: expected 0 to {MAX_TEMPO_RANGE}, found {self.tempo_range}"
            )

    def longest_clip(self, num_samples: int) -> int:
        """Tell how many samples of a song an example may need.

        What is to be slowed down starts out shorter, what is to be sped up longer.
        """
        faster = 2 ** (self.speed_range_semitones / 12)
        if self.tempo_probability:
            faster *= 1 + self.tempo_range
        return math.ceil(num_samples * faster) + 1


class Remixer:
    """Makes batches of stems; their sum is the mixture that the separator is shown."""

    def __init__(
        self,
        pool: "SongPool",
        config: RemixConfig,
        *,
        num_samples: int,
        seed: int,
        max_bad_fraction: float = 0.0,
    ) -> None:
        """Take the songs.

        Args:
            pool: songs to draw from.
            config: how examples are made.
            num_samples: length of an example.
            seed: same seed, songs and config: same batches.
            max_bad_fraction: songs that turn out to be broken, or too short, are left out with a
                warning up to this part of the pool; beyond it they are an error.
        """
        self._longest = config.longest_clip(num_samples)
        self._max_bad_fraction = max_bad_fraction
        self._bad: dict[Path, str] = {}
        # Songs and first samples that the newest example was taken from.
        self._places: list[tuple[Path, int]] = []
        self.pool = pool
        self.config = config
        self.num_samples = num_samples
        self.seed = seed

    def batch(self, step: int, batch_size: int, first: int = 0) -> Tensor:
        """Make the batch of one step, or a part of it.

        Args:
            step: of the training.
            batch_size: number of examples.
            first: number of the first one in the whole batch.

        Returns:
            stems_BSCT in the order of `STEMS`.

        Raises:
            DataError: too many songs cannot be used.
        """
        return torch.stack([self._example(step, first + index) for index in range(batch_size)])

    def equalisers(self, step: int, batch_size: int, num_bins: int, first: int = 0) -> Tensor:
        """Make the spectral gains of one step, to be applied to the STFT of `batch`.

        They are applied there because a trainer takes the STFT anyway: it costs nothing.

        Args:
            step: of the training.
            batch_size: number of examples.
            num_bins: rows of the STFT.
            first: number of the first example in the whole batch.

        Returns:
            gain_BSF, factors for rows from 0 Hz to half the sampling rate.
        """
        config = self.config
        hz_F = torch.linspace(0, SAMPLE_RATE_HZ / 2, num_bins)
        gain_BSF = torch.ones(batch_size, NUM_STEMS, num_bins)
        for index in range(batch_size):
            rng = self._rng(step, first + index, EQUALISER_STREAM)
            for stem in range(NUM_STEMS):
                nodes_db = rng.uniform(-1, 1, EQUALISER_NODES) * config.equaliser_range_db
                if rng.random() < config.equaliser_probability:
                    gain_BSF[index, stem] = _smooth_curve(hz_F, nodes_db)
            lowpass_hz = rng.uniform(*config.lowpass_hz)
            if rng.random() < config.lowpass_probability:
                gain_BSF[index, :, hz_F > lowpass_hz] = 0
        return gain_BSF

    def describe(self, step: int, index: int) -> str:
        """Name the places in songs that an example of a step is taken from; it is made again."""
        self._example(step, index)
        places = (f"{path} from {start / SAMPLE_RATE_HZ:.2f} s" for path, start in self._places)
        return f"example {index} ({', '.join(dict.fromkeys(places))})"

    def _rng(self, step: int, index: int, stream: int, attempt: int = 0) -> Generator:
        """Return the source of one example's random numbers, independent of all others."""
        return np.random.default_rng([self.seed, stream, step, index, attempt])

    def _example(self, step: int, index: int) -> Tensor:
        """Draw until every song that is read is whole.

        What is broken today was broken before a resumption: nothing else is drawn then.
        """
        for attempt in range(MAX_ATTEMPTS):
            self._places.clear()
            try:
                return self._drawn(step, self._rng(step, index, CLIP_STREAM, attempt))
            except UnreadableStemError as error:
                self._leave_out(error, self.pool.size)
        raise DataError(
            f"step {step}: expected an example within {MAX_ATTEMPTS} attempts, found broken songs: "
            f"{'; '.join(self._bad.values())}"
        )

    def _leave_out(self, error: UnreadableStemError, num_songs: int) -> None:
        if error.song in self._bad:
            return
        self._bad[error.song] = str(error)
        check_bad_songs(list(self._bad.values()), num_songs, self._max_bad_fraction)
        log.warning("leaves out a song: %s", error)

    def _drawn(self, step: int, rng: Generator) -> Tensor:
        config = self.config
        remixed = rng.random() < config.remix_probability
        song, start = self._position(step, rng)
        kept_S = rng.random(NUM_STEMS) >= config.dropout_probability
        kept_S[rng.integers(NUM_STEMS)] |= not kept_S.any()
        stems = []
        for stem, keep in zip(STEMS, kept_S, strict=True):
            if not keep:
                stems.append(torch.zeros(NUM_CHANNELS, self.num_samples))
                continue
            if remixed:
                clip_CT = self._remixed_clip(step, rng, stem)
            else:
                gain_db = rng.uniform(-1, 1) * config.gain_range_db
                first = self._shifted(rng, song, start)
                clip_CT = read_clip(song, stem, first, self.num_samples) * 10 ** (gain_db / 20)
            stems.append(self._placed(rng, clip_CT))
        return torch.stack(stems)

    def _position(self, step: int, rng: Generator) -> tuple[Song, int]:
        song = self.pool.song(step, int(rng.integers(self.pool.size)))
        if song.num_samples < self._longest:
            raise UnreadableStemError(
                song.path,
                f"{song.path}: expected at least {self._longest / SAMPLE_RATE_HZ:.1f} s, found "
                f"{song.num_samples / SAMPLE_RATE_HZ:.1f} s",
            )
        start = int(rng.integers(song.num_samples - self._longest + 1))
        self._places.append((song.path, start))
        return song, start

    def _shifted(self, rng: Generator, song: Song, start: int) -> int:
        """Move the start of one stem, within the song."""
        shift = round(rng.uniform(-1, 1) * self.config.shift_range_s * SAMPLE_RATE_HZ)
        if rng.random() >= self.config.shift_probability:
            return start
        return min(max(start + shift, 0), song.num_samples - self.num_samples)

    def _remixed_clip(self, step: int, rng: Generator, stem: str) -> Tensor:
        """Take a clip of the stem from anywhere, at a level of its own."""
        config = self.config
        clip_CT = self._anywhere(step, rng, stem)
        double_probability = {
            "other": config.double_other_probability,
            "vocals": config.double_vocals_probability,
        }.get(stem, 0.0)
        if rng.random() < double_probability:
            gain = 10 ** (rng.uniform(*config.double_range_db) / 20)
            clip_CT = clip_CT + gain * self._anywhere(step, rng, stem)
        rms = clip_CT.square().mean().sqrt().item()
        if rms < SILENCE_RMS:
            return clip_CT
        level_db = config.level_dbfs + rng.uniform(-1, 1) * config.level_range_db
        drive = rng.uniform(*config.saturation_drive)
        if rng.random() < config.saturation_probability:
            clip_CT = torch.tanh(clip_CT * drive)
            rms = clip_CT.square().mean().sqrt().item()
        return clip_CT * (10 ** (level_db / 20) / rms)

    def _anywhere(self, step: int, rng: Generator, stem: str) -> Tensor:
        """Read a clip of the stem from any song and position, perhaps at other speed or pitch."""
        config = self.config
        song, start = self._position(step, rng)
        speed = 2 ** (rng.uniform(-1, 1) * config.speed_range_semitones / 12)
        tempo = 1 + rng.uniform(-1, 1) * config.tempo_range
        pitch = 2 ** (rng.uniform(-1, 1) * config.pitch_range_semitones / 12)
        drawn_3 = rng.random(3)
        speed = speed if drawn_3[0] < config.speed_probability else 1.0
        tempo = tempo if drawn_3[1] < config.tempo_probability else 1.0
        pitch = pitch if drawn_3[2] < config.pitch_probability else 1.0
        clip_CT = read_clip(song, stem, start, round(self.num_samples * speed * tempo))
        if tempo != 1.0 or pitch != 1.0:
            clip_CT = stretched(clip_CT, round(self.num_samples * speed * pitch))
        if clip_CT.shape[-1] == self.num_samples:
            return clip_CT
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


def stretched(audio_CT: Tensor, num_samples: int) -> Tensor:
    """Change the length of audio and keep its pitch: overlap-add of frames that fit (WSOLA).

    Each frame is taken from near the place that the new tempo asks for, where it goes on best
    from the frame before. All channels move together.

    Args:
        audio_CT: audio.
        num_samples: the length it shall have.

    Source: Verhelst and Roelands, "An overlap-add technique based on waveform similarity (WSOLA)
    for high quality time-scale modification of speech", ICASSP 1993.
    """
    hop, reach = FRAME_SAMPLES // 2, SEARCH_SAMPLES
    rate = audio_CT.shape[-1] / num_samples
    num_hops = math.ceil(num_samples / hop)
    before = hop + reach
    after = max(math.ceil(num_hops * hop * rate) - audio_CT.shape[-1], 0) + 4 * hop + reach
    source_CT = functional.pad(audio_CT, (before, after))
    fade_T = torch.hann_window(FRAME_SAMPLES)
    out_CT = audio_CT.new_zeros(len(audio_CT), (num_hops + 2) * hop)
    # The first frame lies half before the audio, so that each sample is in two frames.
    chosen = reach
    for index in range(num_hops + 1):
        if index:
            wanted = source_CT[:, chosen + hop : chosen + 2 * hop]
            first = before + round((index - 1) * hop * rate) - reach
            chosen = first + _best_fit(source_CT[:, first : first + 2 * reach + hop], wanted)
        frame_CT = source_CT[:, chosen : chosen + FRAME_SAMPLES]
        out_CT[:, index * hop : index * hop + FRAME_SAMPLES] += fade_T * frame_CT
    return out_CT[:, hop : hop + num_samples]


def _best_fit(region_CT: Tensor, wanted_CT: Tensor) -> int:
    """Return the place in a region where it resembles most what is wanted."""
    product_T = functional.conv1d(region_CT[None], wanted_CT[None])[0, 0]
    energy_T = functional.pad(region_CT.square().sum(dim=0).cumsum(dim=0), (1, 0))
    length = wanted_CT.shape[-1]
    norm_T = (energy_T[length:] - energy_T[:-length]).clamp_min(SILENCE_RMS**2).sqrt()
    return int((product_T / norm_T).argmax())


def _smooth_curve(hz_F: Tensor, nodes_db: NDArray[np.float64]) -> Tensor:
    """Return gains through nodes that lie evenly in octaves, joined by half cosines."""
    octaves = math.log2(SAMPLE_RATE_HZ / 2 / EQUALISER_LOWEST_HZ)
    octave_F = (hz_F.clamp_min(EQUALISER_LOWEST_HZ) / EQUALISER_LOWEST_HZ).log2()
    position_F = octave_F * ((len(nodes_db) - 1) / octaves)
    left_F = position_F.floor().long().clamp(max=len(nodes_db) - 2)
    share_F = (1 - torch.cos(math.pi * (position_F - left_F))) / 2
    nodes = torch.from_numpy(nodes_db).float()
    return torch.pow(10.0, torch.lerp(nodes[left_F], nodes[left_F + 1], share_F) / 20)
