"""A mixing style: what a transfer aims at, measured from songs, mixed and stored.

Shape suffixes: K segment, S stem, C channel, T sample, D features, E embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.audio.levels import loudness_lufs
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.features import FEATURE_NAMES, SCHEMA_VERSION, extract
from mixprint.schema import Float32, Length, as_record, shortened
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json, write_json
from mixprint.storage.outputs import check_file
from mixprint.text import printable

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

FORMAT = "mixprint-style"
FORMAT_VERSION = 1
NORM_TOLERANCE = 1e-3
# Steps of a sweep are named in hundredths.
MAX_MIXES = 101
# Below this a stem is silence or what a separator leaves of an absent stem: there is no style to
# read from it, and none that it could be given.
SILENT_STEM_DBFS = -60.0
SILENT_BELOW_MIX_DB = 35.0

# Each of the 64 features belongs to one stem, those of the mix block too.
STEM_OF_FEATURE_D = torch.tensor(
    [next(i for i, s in enumerate(STEMS) if name.startswith(f"{s}_")) for name in FEATURE_NAMES]
)


def sounding(stems_SCT: Tensor) -> Tensor:
    """Tell which stems sound: sounding_S.

    What lies further below the mix than `SILENT_BELOW_MIX_DB` is what a separator confuses, and
    would be heard as that if it were brought to the level of a stem.
    """
    mix_power = stems_SCT.sum(0).square().mean()
    floor = (mix_power * 10 ** (-SILENT_BELOW_MIX_DB / 10)).clamp_min(10 ** (SILENT_STEM_DBFS / 10))
    return stems_SCT.square().mean((1, 2)) > floor


def mean_features(features_KD: Tensor, weight_KS: Tensor) -> Tensor:
    """Average features, each with the weights of the stem that it belongs to.

    Args:
        features_KD: raw or standardised: the mean is linear.
        weight_KS: from 0 on; a stem without any weight gets the plain mean.

    Returns:
        features_D.
    """
    weight_KS = torch.where(weight_KS.sum(0) > 0, weight_KS, torch.ones_like(weight_KS))
    weight_KD = weight_KS[:, STEM_OF_FEATURE_D.to(weight_KS.device)]
    return (weight_KD * features_KD).sum(0) / weight_KD.sum(0)


def segment_features(
    segments_SCT: Sequence[Tensor], sample_rate_hz: int, sounding_KS: Tensor | None = None
) -> Tensor:
    """Measure the 64 features of a song by some of its segments.

    A stem's features are the mean over the segments in which it sounds: a pause is no part of its
    style.

    Args:
        segments_SCT: stems of each segment, 3 s or longer.
        sample_rate_hz: of the audio.
        sounding_KS: which stem sounds in which segment; by `sounding` when None.

    Returns:
        features_D, raw.
    """
    features_KD = torch.cat([extract(s.unsqueeze(0), sample_rate_hz) for s in segments_SCT])
    if sounding_KS is None:
        sounding_KS = torch.stack([sounding(stems_SCT) for stems_SCT in segments_SCT])
    return mean_features(features_KD, sounding_KS.to(features_KD))


def segment_embedding(
    encoder: "Encoder", segments_SCT: Sequence[Tensor], sample_rate_hz: int
) -> Tensor:
    """Embed a song by some of its segments: the mean of their embeddings, brought to length one.

    Returns:
        embedding_E.
    """
    embedding_KE = torch.cat([encoder.embed(s.unsqueeze(0), sample_rate_hz) for s in segments_SCT])
    return embedding_KE[0] if len(embedding_KE) == 1 else _unit(embedding_KE.mean(0))


@dataclass(frozen=True, kw_only=True)
class _Values:
    """A style as JSON holds it."""

    format: str
    format_version: int
    title: Annotated[str, Length(0, 10_000)]
    feature_schema: int
    features: Mapping[str, Float32]
    embedding: Annotated[tuple[Float32, ...], Length(1, 1 << 14)] | None
    encoder: Annotated[str, Length(1, 200)] | None
    loudness_lufs: Float32
    silent: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Style:
    """A mixing style.

    Attributes:
        title: what a person calls it.
        features_D: the 64 features, raw.
        embedding_E: of length one; None where no encoder was at hand.
        encoder: fingerprint of the encoder of the embedding; None without one.
        loudness_lufs: integrated, of the mix.
        silent: stems that do not sound; their features mean nothing.
        schema_version: of the features.
    """

    title: str
    features_D: Tensor
    embedding_E: Tensor | None
    encoder: str | None
    loudness_lufs: float
    silent: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    @classmethod
    def of(
        cls,
        title: str,
        segments_SCT: Sequence[Tensor],
        sample_rate_hz: int,
        *,
        mixtures_CT: Sequence[Tensor] | None = None,
        encoder: "Encoder | None" = None,
    ) -> Self:
        """Measure the style of a song by one segment or several.

        Args:
            title: what a person calls it.
            segments_SCT: its stems, each segment 3 s or longer, on the encoder's device.
            sample_rate_hz: of the audio.
            mixtures_CT: what the stems were separated from, for the loudness; their sums when
                None.
            encoder: gives the embedding.
        """
        if mixtures_CT is None:
            mixtures_CT = [stems_SCT.sum(0) for stems_SCT in segments_SCT]
        with torch.no_grad():
            embedding_E = None
            if encoder is not None:
                embedding_E = segment_embedding(encoder, segments_SCT, sample_rate_hz).cpu()
            sounds_S = torch.stack([sounding(s) for s in segments_SCT]).any(0).tolist()
            return cls(
                title=title,
                features_D=segment_features(segments_SCT, sample_rate_hz).cpu(),
                embedding_E=embedding_E,
                encoder=None if encoder is None else encoder.fingerprint,
                loudness_lufs=loudness_lufs(torch.cat(list(mixtures_CT), dim=-1), sample_rate_hz),
                silent=tuple(s for s, sounds in zip(STEMS, sounds_S, strict=True) if not sounds),
            )

    @classmethod
    def mean(cls, styles: Sequence["Style"], weights: Sequence[float]) -> "Style":
        """Mix styles.

        Features are averaged linearly, which is the same for raw and standardised ones; those of a
        stem that is silent in one style come from the others. Embeddings are averaged and brought
        to length one; if one style has none, the mix has none. Loudness is averaged in LUFS.

        Args:
            styles: at least one.
            weights: one per style, above 0; only their ratios matter.

        Raises:
            ConfigError: the weights do not fit.
            CheckpointError: the embeddings are of different encoders, or cancel out.
        """
        if len(styles) != len(weights) or not styles:
            raise ConfigError(f"weights: expected {len(styles)}, one per target, got {weights}")
        if not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise ConfigError(f"weights: expected numbers above 0, got {list(weights)}")
        if len(styles) == 1:
            return styles[0]
        weight_K = torch.tensor(weights, dtype=torch.float32) / sum(weights)
        sounds_KS = torch.tensor([[stem not in s.silent for stem in STEMS] for s in styles])
        weight_KS = weight_K.unsqueeze(-1) * sounds_KS
        embedding_E, encoder = None, None
        known = [style for style in styles if style.embedding_E is not None]
        if len(known) == len(styles):
            encoder = known[0].encoder
            for style in known:
                if style.encoder != encoder:
                    raise CheckpointError(
                        f"styles {known[0].title} and {style.title}: expected embeddings of one "
                        f"encoder, found {encoder} and {style.encoder}"
                    )
            lengths = {len(s.embedding_E) for s in known if s.embedding_E is not None}
            if len(lengths) > 1:
                raise CheckpointError(
                    f"styles {', '.join(style.title for style in known)}: expected embeddings of "
                    f"one length, found {sorted(lengths)}"
                )
            embedding_KE = torch.stack([s.embedding_E for s in known if s.embedding_E is not None])
            embedding_E = _unit(weight_K @ embedding_KE)
        return cls(
            title=" + ".join(
                f"{share:.0%} {style.title}"
                for share, style in zip(weight_K.tolist(), styles, strict=True)
            ),
            features_D=mean_features(torch.stack([s.features_D for s in styles]), weight_KS),
            embedding_E=embedding_E,
            encoder=encoder,
            loudness_lufs=float(weight_K @ torch.tensor([s.loudness_lufs for s in styles])),
            silent=tuple(s for i, s in enumerate(STEMS) if not sounds_KS[:, i].any()),
        )

    def to_values(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_values` is the inverse, exact to the bit."""
        embedding = None if self.embedding_E is None else self.embedding_E.tolist()
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "title": self.title,
            "feature_schema": self.schema_version,
            "features": dict(zip(FEATURE_NAMES, self.features_D.tolist(), strict=True)),
            "embedding": embedding,
            "encoder": self.encoder,
            "loudness_lufs": self.loudness_lufs,
            "silent": list(self.silent),
        }

    @classmethod
    def from_values(cls, values: Any, where: str) -> Self:
        """Check plain values and take them over.

        Args:
            values: as given by `to_values`.
            where: file that they come from, for the error message.

        Raises:
            CheckpointError: the values are of another format or feature schema, incomplete or not
                usable.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{where}: expected a {FORMAT}, found something else")
        if values.get("format_version") != FORMAT_VERSION:
            raise CheckpointError(
                f"{where}: expected format version {FORMAT_VERSION}, "
                f"found {shortened(values.get('format_version'))}"
            )
        if values.get("feature_schema") != SCHEMA_VERSION:
            raise CheckpointError(
                f"{where}: expected feature schema {SCHEMA_VERSION}, "
                f"found {shortened(values.get('feature_schema'))}"
            )
        known = as_record(values, where, _Values, CheckpointError)
        if known.features.keys() != set(FEATURE_NAMES):
            raise CheckpointError(f"{where}: features: expected the {len(FEATURE_NAMES)} names")
        if (known.embedding is None) != (known.encoder is None):
            raise CheckpointError(
                f"{where}: expected an embedding with its encoder, or neither, found one of them"
            )
        if not set(known.silent) <= set(STEMS):
            raise CheckpointError(
                f"{where}: silent: expected some of {STEMS}, found {shortened(known.silent)}"
            )
        embedding_E = None if known.embedding is None else torch.tensor(known.embedding)
        if embedding_E is not None and abs(float(embedding_E.norm()) - 1) > NORM_TOLERANCE:
            raise CheckpointError(
                f"{where}: embedding: expected one of length one, found {embedding_E.norm():g}"
            )
        return cls(
            title=printable(known.title),
            features_D=torch.tensor([known.features[name] for name in FEATURE_NAMES]),
            embedding_E=embedding_E,
            encoder=known.encoder,
            loudness_lufs=known.loudness_lufs,
            silent=known.silent,
        )

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_values())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: see `from_values`.
            DataError: the file is missing or no JSON.
        """
        return cls.from_values(read_json(path), str(path))


def is_style(path: Path) -> bool:
    """Tell whether a file holds a style, by what it says of itself."""
    try:
        values = read_json(path)
    except DataError:
        return False
    return isinstance(values, dict) and values.get("format") == FORMAT


def save_style(style: Style, path: Path, *, overwrite: bool) -> None:
    """Save a style, unless the file holds another one that is to stay; the same is left alone.

    Raises:
        DataError: see `mixprint.storage.outputs.check_file`.
    """
    if is_style(path) and read_json(path) == style.to_values():
        return
    check_file(path, is_style, overwrite=overwrite)
    style.save(path)


def sweep_weights(num_mixes: int) -> list[tuple[float, float]]:
    """Return the weights of two styles, from the first alone to the second alone in equal steps.

    Raises:
        ConfigError: fewer than 2 mixes are asked for, or more than can be told apart.
    """
    if not 2 <= num_mixes <= MAX_MIXES:
        raise ConfigError(f"sweep: expected 2 to {MAX_MIXES} mixes, got {num_mixes}")
    shares = [index / (num_mixes - 1) for index in range(num_mixes)]
    return [(1 - share, share) for share in shares]


def _unit(embedding_E: Tensor) -> Tensor:
    """Bring to length one."""
    if float(torch.linalg.vector_norm(embedding_E)) < 1e-6:
        raise CheckpointError("embeddings: expected a direction in their mean, found they cancel")
    return functional.normalize(embedding_E, dim=-1)
