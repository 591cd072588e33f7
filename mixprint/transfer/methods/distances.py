"""Distances of what a transfer makes to what it aims at.

Shape suffixes: K segment, S stem, C channel, T sample, D features, E embedding.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixprint.errors import CheckpointError
from mixprint.features import Standardisation
from mixprint.features.extraction import combine, measure_stem
from mixprint.stems import STEMS
from mixprint.transfer.methods.result import FitSettings, Iteration
from mixprint.transfer.style import (
    STEM_OF_FEATURE_D,
    Style,
    mean_features,
    segment_embedding,
    segment_features,
    sounding,
)

if TYPE_CHECKING:
    from mixprint.encoder.checkpoint import Encoder

# Weight of the prior over settings against the squares of the residuals. The truth is nearer where
# estimated features are met by small settings; literal ones are met at nearly any cost.
PRIOR_WEIGHT_OF_ESTIMATE = 2.0
PRIOR_WEIGHT_OF_EMBEDDING = 1e-3
PRIOR_WEIGHT_OF_LITERAL = 1e-2

Exchanged = Callable[[int, Sequence[Tensor]], Tensor]


class Distances:
    """The distances of rendered segments to one style."""

    def __init__(
        self,
        segments_SCT: Sequence[Tensor],
        style: Style,
        sample_rate_hz: int,
        settings: FitSettings,
        *,
        standardisation: Standardisation,
        encoder: "Encoder | None",
        left_alone: tuple[str, ...],
    ) -> None:
        """Measure the input, which decides what is aimed at.

        Args:
            segments_SCT: the segments that were heard.
            style: what is aimed at.
            sample_rate_hz: of the audio.
            settings: how the effect is found.
            standardisation: of the features.
            encoder: see `mixprint.transfer.fit.fit_style`.
            left_alone: stems whose features take no part.
        """
        device = segments_SCT[0].device
        self.left_alone = left_alone
        self._by_features = settings.optimize_target == "features"
        self._sample_rate_hz = sample_rate_hz
        self._standardisation = standardisation
        self._encoder = encoder
        taking_part_S = torch.tensor([stem not in left_alone for stem in STEMS])
        self._taking_part_D = taking_part_S[STEM_OF_FEATURE_D].to(device)
        # Of the input: what is turned down must not drop out of the mean.
        self._sounding_KS = torch.stack([sounding(stems_SCT) for stems_SCT in segments_SCT])
        target_D = self._standardisation.apply(style.features_D.to(device))
        self._target_features_D = target_D[self._taking_part_D]
        self._aim_D = self._target_features_D
        self.prior_weight = PRIOR_WEIGHT_OF_LITERAL
        share_D = settings.share
        if not self._by_features:
            self.prior_weight = PRIOR_WEIGHT_OF_EMBEDDING
        elif share_D is not None:
            self.prior_weight = PRIOR_WEIGHT_OF_ESTIMATE
        if share_D is not None:
            with torch.no_grad():
                own_D = self._features(segments_SCT)
            taken_D = share_D.to(device)[self._taking_part_D]
            self._aim_D = own_D + taken_D * (self._target_features_D - own_D)
        self._target_embedding_E = None
        if encoder is not None and style.encoder == encoder.fingerprint:
            assert style.embedding_E is not None
            self._target_embedding_E = style.embedding_E.to(device)

    def _features(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        features_D = segment_features(segments_SCT, self._sample_rate_hz, self._sounding_KS)
        return self._standardisation.apply(features_D)[self._taking_part_D]

    def embedding(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Cosine distance of the embeddings, which have length one."""
        assert self._encoder is not None
        assert self._target_embedding_E is not None
        embedding_E = segment_embedding(self._encoder, segments_SCT, self._sample_rate_hz)
        check_length(self._target_embedding_E, embedding_E)
        return 1 - torch.dot(embedding_E, self._target_embedding_E)

    def optimised(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Return the distance that is minimised."""
        if self._by_features:
            return _rms(self._features(segments_SCT) - self._aim_D)
        return self.embedding(segments_SCT)

    def residuals(self, segments_SCT: Sequence[Tensor]) -> Tensor:
        """Return what the distance that is minimised is the length of, up to a factor: residual_R.

        The length of the difference of two embeddings of length one is the root of twice their
        cosine distance.
        """
        if self._by_features:
            return self._features(segments_SCT) - self._aim_D
        assert self._encoder is not None
        assert self._target_embedding_E is not None
        embedding_E = segment_embedding(self._encoder, segments_SCT, self._sample_rate_hz)
        check_length(self._target_embedding_E, embedding_E)
        return embedding_E - self._target_embedding_E

    def exchanging(self, segments_SCT: Sequence[Tensor]) -> "Exchanged":
        """Return what measures segments of which one stem is another.

        Of features only those of that stem, and those that relate the stems, are computed anew.

        Returns:
            (place of the stem, its audio_1CT in each segment) -> residual_R, see `residuals`.
        """
        if not self._by_features:

            def whole(place: int, audio_1CT: Sequence[Tensor]) -> Tensor:
                row = torch.tensor([place], device=segments_SCT[0].device)
                pairs = zip(segments_SCT, audio_1CT, strict=True)
                return self.residuals([s_SCT.index_copy(0, row, a_1CT) for s_SCT, a_1CT in pairs])

            return whole
        rate_hz = self._sample_rate_hz
        measures = [[measure_stem(s_CT[None], rate_hz) for s_CT in s_SCT] for s_SCT in segments_SCT]

        def by_stems(place: int, audio_1CT: Sequence[Tensor]) -> Tensor:
            features = []
            for of_segment, each_1CT in zip(measures, audio_1CT, strict=True):
                exchanged = list(of_segment)
                exchanged[place] = measure_stem(each_1CT, rate_hz)
                features.append(combine(exchanged, rate_hz))
            features_D = mean_features(torch.cat(features), self._sounding_KS.to(features[0]))
            return self._standardisation.apply(features_D)[self._taking_part_D] - self._aim_D

        return by_stems

    def of(self, iteration: Iteration) -> float:
        """Read the distance that is minimised from what was measured."""
        value = iteration.aim_distance if self._by_features else iteration.embedding_distance
        assert value is not None
        return value

    @torch.no_grad()
    def measure(self, step: int, segments_SCT: Sequence[Tensor]) -> Iteration:
        """Measure all of them."""
        features_D = self._features(segments_SCT)
        has_embedding = self._target_embedding_E is not None
        return Iteration(
            step,
            embedding_distance=float(self.embedding(segments_SCT)) if has_embedding else None,
            feature_distance=float(_rms(features_D - self._target_features_D)),
            aim_distance=float(_rms(features_D - self._aim_D)) if self._by_features else None,
        )


def _rms(difference_D: Tensor) -> Tensor:
    """Take the root of the mean square, with a gradient of zero at zero."""
    return torch.linalg.vector_norm(difference_D) / math.sqrt(max(difference_D.numel(), 1))


def check_length(aim_E: Tensor, embedding_E: Tensor) -> None:
    """Refuse to aim at an embedding that is not as long as those of its encoder."""
    if aim_E.shape != embedding_E.shape:
        raise CheckpointError(
            f"style: expected an embedding of {len(embedding_E)} numbers, as its encoder gives, "
            f"found {len(aim_E)}"
        )
