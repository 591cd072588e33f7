"""The settings of the encoder and its training; importing them does not load torch."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from mixprint.config import StepConfig
from mixprint.errors import ConfigError
from mixprint.schema import SAMPLE_RATES_HZ, Range

TRAINED_BACKBONES = ("bands", "descriptors")
BACKBONES = (*TRAINED_BACKBONES, "joined")
CONDITIONINGS = ("film", "prepend", "none")
MIN_SEGMENT_S = 3.0
PRECISIONS = ("float32", "bfloat16")
POOL = (2, 4)  # mels, frames: twice, so that a step of the attention spans 16 hops
MAX_FRAME_OVERLAP = 32  # the memory of a spectrogram grows with it
MAX_DECAY_S = 1.5  # of the reverb
NEGATIVES = ("songs", "siblings", "augmented")
SAME_STYLE = ("negative", "ignored", "positive")
AUGMENTATIONS = ("fixed", "chains", "alternating")
MAX_CHAIN_LENGTH = 8  # see `mixprint.chains`, which loads torch
VIEWS = ("anchor", "positive", "augmented")

# What an ablation can leave out of the conditioning: family -> endings of feature names.
FEATURE_FAMILIES = {
    "level": ("_rms_left_db", "_rms_right_db", "_loudness_lufs", "_relative_loudness_lu"),
    "dynamics": ("_crest_left_db", "_crest_right_db", "_dynamic_range_lu"),
    "spectrum": (
        "_band_low_db",
        "_band_mid_db",
        "_band_high_db",
        "_spectral_tilt_db_per_octave",
        "_spectral_flatness",
    ),
    "stereo": ("_ild_db", "_correlation", "_side_mid_ratio_db"),
    "masking": ("_masking",),
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The architecture: everything that decides the names and shapes of the weights.

    Attributes:
        sample_rate_hz: rate of the audio that the encoder hears.
        n_fft: window of the spectrogram in samples.
        hop_samples: step of the spectrogram.
        num_mels: mels over the whole range up to half the sample rate.
        band_mels: mels in a sub-band.
        band_hop_mels: from one sub-band to the next; the last ends at the last mel.
        conv_channels: channels per band after the first convolution; twice after the second.
        embedding_dim: size of the embedding.
        conditioning: `film` (features scale and shift each channel), `prepend` (features are
            one more step of the sequence that is pooled) or `none`.
        film_dropout: dropout inside the MLPs that the features pass.
        feature_skip: the features also reach the embedding by an MLP of their own.
        dropped_families: keys of `FEATURE_FAMILIES` that the encoder does not see.
        backbone: `bands` (convolutions on a spectrogram, with features: all of the above but the
            rate and `embedding_dim` counts for it alone), `descriptors` (a network on descriptors
            of each stem: the next three count for it alone) or `joined` (both of them side by
            side, each with half of the embedding).
        descriptor_hidden: width of its layers.
        descriptor_dropout: dropout of its inputs and layers.
        descriptor_noise: noise on its inputs while it learns, in standard deviations.
        descriptor_share: its part in the similarity of two joined embeddings.
    """

    sample_rate_hz: Annotated[int, SAMPLE_RATES_HZ]
    n_fft: Annotated[int, Range(1, 1 << 15)]
    hop_samples: Annotated[int, Range(1, 1 << 15)]
    num_mels: Annotated[int, Range(1, 512)]
    band_mels: Annotated[int, Range(1, 512)]
    band_hop_mels: Annotated[int, Range(1, 512)]
    conv_channels: Annotated[int, Range(1, 1 << 10)]
    embedding_dim: Annotated[int, Range(1, 1 << 14)]
    conditioning: str
    film_dropout: float
    feature_skip: bool = False
    dropped_families: tuple[str, ...] = ()
    backbone: str = "bands"
    descriptor_hidden: Annotated[int, Range(1, 1 << 14)] = 512
    descriptor_dropout: float = 0.2
    descriptor_noise: float = 0.1
    descriptor_share: float = 0.6

    def __post_init__(self) -> None:
        """Refuse what cannot be built, by name.

        Raises:
            ConfigError: a value is out of range or unknown.
        """
        if self.backbone not in BACKBONES:
            raise ConfigError(f"encoder backbone must be one of {BACKBONES}, got {self.backbone!r}")
        if not 0.0 <= self.descriptor_dropout < 1.0 or not self.descriptor_noise >= 0.0:
            raise ConfigError(
                "encoder descriptor_dropout must lie in 0..1 and descriptor_noise must be >= 0, "
                f"got {self.descriptor_dropout} and {self.descriptor_noise}"
            )
        if not 0.0 < self.descriptor_share < 1.0:
            raise ConfigError(
                f"encoder descriptor_share must lie between 0 and 1, got {self.descriptor_share}"
            )
        for name in (
            "sample_rate_hz",
            "n_fft",
            "hop_samples",
            "band_hop_mels",
            "conv_channels",
            "embedding_dim",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder {name} must be at least 1, got {getattr(self, name)}")
        if not POOL[0] ** 2 <= self.band_mels <= self.num_mels:
            raise ConfigError(
                f"encoder band_mels must lie in {POOL[0] ** 2}..num_mels ({self.num_mels}), "
                f"got {self.band_mels}"
            )
        if self.band_hop_mels > self.band_mels:
            raise ConfigError(
                f"encoder band_hop_mels must be at most band_mels ({self.band_mels}) so that no "
                f"mel is dropped, got {self.band_hop_mels}"
            )
        if self.conditioning not in CONDITIONINGS:
            raise ConfigError(
                f"encoder conditioning must be one of {CONDITIONINGS}, got {self.conditioning!r}"
            )
        if not 0.0 <= self.film_dropout < 1.0:
            raise ConfigError(f"encoder film_dropout must lie in 0..1, got {self.film_dropout}")
        if unknown := sorted(set(self.dropped_families) - FEATURE_FAMILIES.keys()):
            raise ConfigError(
                f"encoder dropped_families: unknown {unknown}; known are {list(FEATURE_FAMILIES)}"
            )
        if self.n_fft > MAX_FRAME_OVERLAP * self.hop_samples:
            raise ConfigError(
                f"encoder hop_samples must be at least n_fft / {MAX_FRAME_OVERLAP}, got "
                f"{self.hop_samples} and {self.n_fft}"
            )
        if self.hop_samples * POOL[1] ** 2 > MIN_SEGMENT_S * self.sample_rate_hz:
            raise ConfigError(
                f"encoder hop_samples must leave at least {POOL[1] ** 2} frames in "
                f"{MIN_SEGMENT_S} s, got {self.hop_samples}"
            )

    @property
    def band_starts(self) -> tuple[int, ...]:
        """First mel of each sub-band; the last band is moved down to end at the last mel."""
        last = self.num_mels - self.band_mels
        starts = list(range(0, last + 1, self.band_hop_mels))
        return tuple(starts if starts[-1] == last else [*starts, last])

    @property
    def min_samples(self) -> int:
        """Shortest segment that can be embedded."""
        return round(MIN_SEGMENT_S * self.sample_rate_hz)


@dataclass(frozen=True, kw_only=True)
class AugmentRanges:
    """Range (low, high) of each parameter, and how often each effect is on.

    Attributes:
        probability: chance of each effect on each stem.
        gain_db: level change.
        tilt_db: level of the highs above the pivot of 1 kHz less that of the lows below it.
        threshold_db: the compressor's threshold above the mean power of the peaks it listens to.
        ratio: dB of input for a dB of output above the threshold.
        attack_ms: its time constant while levels rise.
        release_ms: its time constant while they fall.
        highpass_hz: lower limit of the band.
        lowpass_hz: upper limit of the band.
        reverb_wet: part of the reverb in the stem, 0..1, at equal power.
        reverb_decay_s: time in which the reverb falls by 60 dB.
        pan: balance, -1 left .. 1 right, of equal power.
        width: factor of the side signal; 0 is mono.
    """

    probability: float
    gain_db: tuple[float, ...]
    tilt_db: tuple[float, ...]
    threshold_db: tuple[float, ...]
    ratio: tuple[float, ...]
    attack_ms: tuple[float, ...]
    release_ms: tuple[float, ...]
    highpass_hz: tuple[float, ...]
    lowpass_hz: tuple[float, ...]
    reverb_wet: tuple[float, ...]
    reverb_decay_s: tuple[float, ...]
    pan: tuple[float, ...]
    width: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            ConfigError: a range is no (low, high) or leaves what the effect can do.
        """
        if not 0 <= self.probability <= 1:
            raise ConfigError(f"augment probability must lie in 0..1, got {self.probability}")
        for name in PARAMETERS:
            values = getattr(self, name)
            low_limit, high_limit = _LIMITS.get(name, (-math.inf, math.inf))
            if len(values) != 2 or not low_limit <= values[0] <= values[1] <= high_limit:
                raise ConfigError(
                    f"augment {name} must be low, high within {low_limit}..{high_limit}, "
                    f"got {values}"
                )


PARAMETERS = tuple(f.name for f in fields(AugmentRanges) if f.name != "probability")
_LIMITS = {
    "ratio": (1.0, math.inf),
    "attack_ms": (0.1, 1_000.0),
    "release_ms": (1.0, 10_000.0),
    "highpass_hz": (1.0, 20_000.0),
    "lowpass_hz": (1.0, 22_050.0),
    "reverb_wet": (0.0, 1.0),
    "reverb_decay_s": (0.05, MAX_DECAY_S),
    "pan": (-1.0, 1.0),
    "width": (0.0, 4.0),
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Objective of the contrastive loss: what attracts and what repels.

    Attributes:
        negatives: kinds out of `NEGATIVES`: other songs of the batch; siblings, which are other
            mixes of the same song; the augmented anchor, which is the same content in another mix.
        same_style: what another song of the same known style is, out of `SAME_STYLE`. The first
            never looks at styles; a song without a known style is like no other.
        segment_weight: weight of the term in which two segments of a track are positives.
        shared_chain_weight: weight of the term in which two songs that went through the same
            augmentation chain are positives.
    """

    negatives: tuple[str, ...]
    same_style: str
    segment_weight: float
    shared_chain_weight: float

    def __post_init__(self) -> None:
        """Refuse what teaches nothing.

        Raises:
            ConfigError: a value is unknown or out of range, or nothing attracts or repels.
        """
        if unknown := sorted(set(self.negatives) - set(NEGATIVES)):
            raise ConfigError(f"train.negatives must be among {NEGATIVES}, got {unknown}")
        if self.same_style not in SAME_STYLE:
            raise ConfigError(f"train.same_style must be in {SAME_STYLE}, got {self.same_style!r}")
        weights = (self.segment_weight, self.shared_chain_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                "train.segment_weight and train.shared_chain_weight must be >= 0, one of them "
                f"above, got {weights}"
            )
        if self.segment_weight > 0 and not self.negatives:
            raise ConfigError(
                "train.negatives must name at least one kind if train.segment_weight > 0"
            )

    @property
    def knows_styles(self) -> bool:
        """Tell whether mixes of one known style attract each other."""
        return self.same_style == "positive"

    @property
    def needs_augmented(self) -> bool:
        """Tell whether the augmented anchor is needed at all."""
        return self.shared_chain_weight > 0 or (
            self.segment_weight > 0 and "augmented" in self.negatives
        )


# Parameters of `TrainConfig` that say which chains are drawn and what is predicted of them.
_OF_CHAINS = frozenset(
    {"augmentation", "chain_lengths", "held_out_effects", "valid_chains", "prediction_weight"}
)
# Parameters of `TrainConfig` that one backbone alone has.
_OF_DESCRIPTORS = frozenset(
    {
        "backbone",
        "descriptor_hidden",
        "descriptor_dropout",
        "descriptor_noise",
        "num_blocks",
        "block_songs",
        "block_chains",
        "steps_per_epoch",
        "style_weight",
        "style_temperature",
    }
)
_OF_BANDS = frozenset(
    {
        "n_fft",
        "hop_samples",
        "num_mels",
        "band_mels",
        "band_hop_mels",
        "conv_channels",
        "conditioning",
        "film_dropout",
        "feature_skip",
        "dropped_families",
        "siblings_per_batch",
        "segment_weight",
    }
)
# Parameters of `TrainConfig` that do not change what a training computes.
_INDIFFERENT = frozenset(
    {
        "num_processes",
        "num_workers",
        "cache_gib",
        "device",
        "compile",
        "save_steps",
        "keep_checkpoints",
        "log_steps",
    }
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StepConfig):
    """Parameters of the training step, as in the section `train` of `params.yaml`.

    Attributes:
        batch_size: pairs in a batch over all ranks together.
        siblings_per_batch: mixes of one song that come together in the order of an epoch, and so
            mostly share a batch; the others lie as far apart as the epoch allows.
        epochs: an epoch shows one pair of segments of each track.
        patience: epochs without a better validation score before training stops; 0 never stops.
        max_valid_tracks: validation takes whole songs up to this number of tracks.
        negatives: see `Objective`, and there same_style and the two weights.
        contrast_weight: weight of the whole contrastive loss; 0: prediction alone.
        prediction_weight: weight of the prediction of what chains did; 0: off.
        augmentation: what makes augmented views: `fixed`, the chain of `AugmentRanges`; `chains`,
            random ones of the effects of `mixprint.chains`; `alternating`, the two in turn.
        chain_lengths: fewest and most effects in such a chain of a stem.
        held_out_effects: names of effects that are never drawn; `default` stands for
            `mixprint.chains.HELD_OUT`.
        valid_chains: drawn chains, each on two songs, that the validation asks for; 0: none.
        save_steps: steps from one saved state to the next inside an epoch; 0 saves only after
            epochs.
        keep_checkpoints: encoders of so many of the last epochs are kept; 0 writes none.
        log_steps: steps from one entry of the TensorBoard log to the next.
        segment_s: what is heard of a segment; less than its stored length gives random crops.
        num_processes: ranks that `torchrun` starts on each node.
        num_workers: processes that read segments, per rank; 0 reads in the training process.
        cache_gib: memory, per reading process, that keeps the segments read last.
        precision: `float32` or `bfloat16` (autocast).
        compile: whether the network goes through `torch.compile`.
        num_blocks: blocks of measured views that the backbone `descriptors` learns from.
        block_songs: songs of a block.
        block_chains: mixes of each song in a block: as it is, and behind so many chains less one.
        steps_per_epoch: steps between validations of that backbone.
        style_weight: weight of its term in which songs of one known style attract each other,
            whatever was done to them; 0: off.
        style_temperature: of that term.
    """

    section: ClassVar[str] = "train"
    epochs: int
    batch_size: int
    siblings_per_batch: int
    learning_rate: float
    weight_decay: float
    warmup_fraction: float
    max_grad_norm: float
    temperature: float
    learn_temperature: bool
    negatives: tuple[str, ...]
    same_style: str
    segment_weight: float
    shared_chain_weight: float
    contrast_weight: float
    prediction_weight: float
    augmentation: str
    chain_lengths: tuple[int, ...]
    held_out_effects: tuple[str, ...]
    valid_chains: int
    seed: int
    num_processes: int
    num_workers: int
    cache_gib: float
    device: str
    precision: str
    compile: bool
    patience: int
    max_valid_tracks: int
    save_steps: int
    keep_checkpoints: int
    log_steps: int
    segment_s: float
    n_fft: int
    hop_samples: int
    num_mels: int
    band_mels: int
    band_hop_mels: int
    conv_channels: int
    embedding_dim: int
    conditioning: str
    film_dropout: float
    feature_skip: bool
    dropped_families: tuple[str, ...]
    backbone: str
    descriptor_hidden: int
    descriptor_dropout: float
    descriptor_noise: float
    num_blocks: int
    block_songs: int
    block_chains: int
    steps_per_epoch: int
    style_weight: float
    style_temperature: float
    augment_probability: float
    augment_gain_db: tuple[float, ...]
    augment_tilt_db: tuple[float, ...]
    augment_threshold_db: tuple[float, ...]
    augment_ratio: tuple[float, ...]
    augment_attack_ms: tuple[float, ...]
    augment_release_ms: tuple[float, ...]
    augment_highpass_hz: tuple[float, ...]
    augment_lowpass_hz: tuple[float, ...]
    augment_reverb_wet: tuple[float, ...]
    augment_reverb_decay_s: tuple[float, ...]
    augment_pan: tuple[float, ...]
    augment_width: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the ranges; the architecture and the augmentations check their own.

        Raises:
            ConfigError: a value is out of range.
        """
        # Near-equal batches of at least this size never leave a pair alone, without negatives.
        lowest: dict[str, float] = {
            "epochs": 1,
            "batch_size": 4,
            "num_processes": 1,
            "num_workers": 0,
            "patience": 0,
            "siblings_per_batch": 1,
            "max_valid_tracks": 2,
            "valid_chains": 0,
            "save_steps": 0,
            "keep_checkpoints": 0,
            "log_steps": 1,
            "num_blocks": 1,
            "block_songs": 2,
            "block_chains": 2,
            "steps_per_epoch": 1,
        }
        lowest |= {"segment_s": MIN_SEGMENT_S, "weight_decay": 0, "cache_gib": 0}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ConfigError(f"train.{name} must be >= {low}, got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"train.{name} must be > 0, got {getattr(self, name)}")
        if not 0 <= self.warmup_fraction < 1:
            raise ConfigError(f"train.warmup_fraction must lie in 0..1, got {self.warmup_fraction}")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"train.precision must be one of {PRECISIONS}, got {self.precision!r}"
            )
        self._check_augmentation()
        if self.backbone not in TRAINED_BACKBONES:
            raise ConfigError(
                f"train.backbone must be one of {TRAINED_BACKBONES}, got {self.backbone!r}"
            )
        if self.backbone == "descriptors":
            self._check_blocks()
        self.augment_ranges()
        self.objective()

    def _check_augmentation(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ConfigError(
                f"train.augmentation must be one of {AUGMENTATIONS}, got {self.augmentation!r}"
            )
        lengths = self.chain_lengths
        if (
            len(lengths) != 2
            or not 0 <= lengths[0] <= lengths[1] <= MAX_CHAIN_LENGTH
            or not lengths[1]
        ):
            raise ConfigError(
                "train.chain_lengths must be fewest, most of 0 to "
                f"{MAX_CHAIN_LENGTH} effects, the most not 0, got {lengths}"
            )
        weights = (self.contrast_weight, self.prediction_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ConfigError(
                "train.contrast_weight and train.prediction_weight must be >= 0, one of them "
                f"above, got {weights}"
            )
        if self.contrast_weight == 0 and self.augmentation == "alternating":
            raise ConfigError(
                "train.contrast_weight must be above 0 with train.augmentation: alternating, for "
                "nothing is predicted of the fixed chain"
            )
        if self.prediction_weight > 0 and not self.draws_chains:
            raise ConfigError(
                "train.prediction_weight above 0 needs train.augmentation: chains or alternating, "
                f"got {self.augmentation!r}"
            )

    def _check_blocks(self) -> None:
        """Refuse what blocks of measured views do not have."""
        if self.segment_weight > 0:
            raise ConfigError(
                "train.segment_weight must be 0 with train.backbone: descriptors, which learns "
                f"from songs behind shared chains, got {self.segment_weight}"
            )
        if self.augmentation == "alternating" and self.block_chains < 3:
            raise ConfigError(
                "train.block_chains must be at least 3 with train.augmentation: alternating, got "
                f"{self.block_chains}"
            )
        if self.style_weight < 0 or self.style_temperature <= 0:
            raise ConfigError(
                "train.style_weight must be >= 0 and train.style_temperature > 0, got "
                f"{self.style_weight} and {self.style_temperature}"
            )
        if self.style_weight > 0 and self.same_style != "positive":
            raise ConfigError(
                "train.style_weight above 0 needs train.same_style: positive, got "
                f"{self.same_style!r}"
            )
        if self.compile:
            raise ConfigError("train.compile must be false with train.backbone: descriptors")

    @property
    def draws_chains(self) -> bool:
        """Tell whether augmented views come from random chains of many effects."""
        return self.augmentation != "fixed"

    @property
    def views(self) -> tuple[str, ...]:
        """Name the views of a track that the network has to see, in the order of `VIEWS`."""
        needed = {"anchor"}
        if self.contrast_weight > 0:
            needed.add("positive")
        if self.prediction_weight > 0 or (
            self.contrast_weight > 0 and self.objective().needs_augmented
        ):
            needed.add("augmented")
        return tuple(view for view in VIEWS if view in needed)

    def encoder_config(self, sample_rate_hz: int) -> EncoderConfig:
        """Return the architecture; it checks its values."""
        names = {f.name for f in fields(EncoderConfig)} - {"sample_rate_hz", "descriptor_share"}
        values = {name: getattr(self, name) for name in names}
        return EncoderConfig(sample_rate_hz=sample_rate_hz, **values)

    def identity(self) -> dict[str, Any]:
        """Return the values that decide what is learned: the others may change in between.

        Those of augmentations and of a backbone that are not used count for nothing, as in
        trainings before there were several kinds.
        """
        values = {k: v for k, v in self.to_values().items() if k not in _INDIFFERENT}
        unused: set[str] = set()
        if self.augmentation == "chains":
            unused = {f"augment_{f.name}" for f in fields(AugmentRanges)}
        elif self.augmentation == "fixed":
            unused = set(_OF_CHAINS)
        if self.contrast_weight == 1:
            unused.add("contrast_weight")
        unused |= _OF_DESCRIPTORS if self.backbone == "bands" else _OF_BANDS
        return {k: v for k, v in values.items() if k not in unused}

    def objective(self) -> Objective:
        """Return what attracts and what repels; it checks its values."""
        return Objective(**{f.name: getattr(self, f.name) for f in fields(Objective)})

    def augment_ranges(self) -> AugmentRanges:
        """Return the ranges of the augmentations; they check their values."""
        names = [f.name for f in fields(AugmentRanges)]
        return AugmentRanges(**{name: getattr(self, f"augment_{name}") for name in names})
