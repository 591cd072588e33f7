"""All mixing features of a batch of segments, in one differentiable call.

Shape suffixes: B batch, S stem, C channel, T sample, N frame, F frequency bin, M mel band,
K step of 100 ms, D feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixprint.dsp import loudness
from mixprint.features import level, spectral
from mixprint.features.masking import masking
from mixprint.features.schema import BLOCKS, MIN_DURATION_S, Block, check_blocks
from mixprint.stems import NUM_CHANNELS, NUM_STEMS


def extract(stems_BSCT: Tensor, sample_rate_hz: int, *, blocks: Sequence[Block] = BLOCKS) -> Tensor:
    """Measure the mixing features of each segment (see `mixprint.features.schema`).

    Every feature carries a gradient to the audio, and a finite one on silence, mono, DC and
    one-sided input. Features are computed in the audio's own precision, float32 at the least,
    also under autocast.

    Args:
        stems_BSCT: the four stems in the order of `STEMS`, stereo, full scale at +-1, 3 s or
            longer, finite.
        sample_rate_hz: sample rate, 32 kHz or more. Features of different rates agree, but only
            roughly: compare those of one rate.
        blocks: `("stem",)` for the 56 features per stem, `("stem", "mix")` for all 64.

    Returns:
        features_BD in the order of `feature_names(blocks)`.

    Raises:
        ValueError: the shape, the duration, the rate or the blocks do not fit.
    """
    blocks = check_blocks(blocks)
    if (
        stems_BSCT.ndim != 4
        or stems_BSCT.shape[0] == 0
        or stems_BSCT.shape[1:3] != (NUM_STEMS, NUM_CHANNELS)
    ):
        raise ValueError(
            f"stems_BSCT must be (1 or more, {NUM_STEMS}, {NUM_CHANNELS}, T), "
            f"got {tuple(stems_BSCT.shape)}"
        )
    if stems_BSCT.shape[-1] < MIN_DURATION_S * sample_rate_hz:
        raise ValueError(
            f"features need {MIN_DURATION_S:g} s of audio or more, "
            f"got {stems_BSCT.shape[-1] / sample_rate_hz:.3f} s"
        )
    # Half precision has neither the range for powers nor the resolution for levels.
    with torch.autocast(stems_BSCT.device.type, enabled=False):
        if stems_BSCT.dtype not in (torch.float32, torch.float64):
            stems_BSCT = stems_BSCT.float()
        # One segment and stem at a time keeps the intermediate results of a CPU in its cache; a
        # GPU takes the batch at once.
        chunk_size = 1 if stems_BSCT.device.type == "cpu" else len(stems_BSCT)
        chunks = [
            _extract_chunk(chunk_BSCT, sample_rate_hz, blocks)
            for chunk_BSCT in stems_BSCT.split(chunk_size)
        ]
        return torch.cat(chunks)


@dataclass(frozen=True)
class StemMeasures:
    """Measures of one stem of some segments, of which features are put together.

    Attributes:
        columns: its own features; none unless the block `stem` is asked for.
        loudness_B: its integrated loudness in LUFS.
        weighted_BCT: K-weighted audio, and
        mel_BNM: its powers, both only for the block `mix`.
    """

    columns: list[Tensor]
    loudness_B: Tensor
    weighted_BCT: Tensor | None
    mel_BNM: Tensor | None


def _extract_chunk(stems_BSCT: Tensor, sample_rate_hz: int, blocks: tuple[Block, ...]) -> Tensor:
    """Measure the features of a few segments."""
    measures = [measure_stem(s, sample_rate_hz, blocks) for s in stems_BSCT.unbind(dim=1)]
    return combine(measures, sample_rate_hz)


def measure_stem(
    stem_BCT: Tensor, sample_rate_hz: int, blocks: tuple[Block, ...] = BLOCKS
) -> StemMeasures:
    """Measure one stem of some segments, for `combine`."""
    constants = spectral.spectral_constants(sample_rate_hz, stem_BCT.device, stem_BCT.dtype)
    power_BNF = spectral.power_spectrogram(stem_BCT, sample_rate_hz)
    weighted_BCT = loudness.k_weight(stem_BCT, sample_rate_hz)
    energy_BK = loudness.hop_energy(weighted_BCT, sample_rate_hz)
    loudness_B = loudness.integrated_from_energy(energy_BK)
    columns = []
    if "stem" in blocks:
        spectrum_BF = power_BNF.mean(dim=-2)
        columns = _stem_columns(stem_BCT, spectrum_BF, energy_BK, loudness_B, constants)
    if "mix" not in blocks:
        return StemMeasures(columns, loudness_B, None, None)
    return StemMeasures(columns, loudness_B, weighted_BCT, power_BNF @ constants.mel_FM)


def combine(measures: Sequence[StemMeasures], sample_rate_hz: int) -> Tensor:
    """Put features together of the measures of all stems, in the order of `STEMS`: features_BD."""
    parts = []
    if columns := [column for each in measures for column in each.columns]:
        parts.append(torch.cat(columns, dim=-1))
    mix_weighted_BCT, mels = None, []
    for each in measures:
        if each.weighted_BCT is not None and each.mel_BNM is not None:
            # The filter is linear: the weighted mix is the sum of the weighted stems.
            mix_weighted_BCT = (
                each.weighted_BCT
                if mix_weighted_BCT is None
                else mix_weighted_BCT + each.weighted_BCT
            )
            mels.append(each.mel_BNM)
    if mix_weighted_BCT is not None:
        mix_energy_BK = loudness.hop_energy(mix_weighted_BCT, sample_rate_hz)
        mix_loudness_B = loudness.integrated_from_energy(mix_energy_BK)
        loudness_BS = torch.stack([each.loudness_B for each in measures], dim=-1)
        parts.append(loudness_BS - mix_loudness_B.unsqueeze(-1))
        parts.append(masking(torch.stack(mels, dim=1)))
    return torch.cat(parts, dim=-1)


def _stem_columns(
    stem_BCT: Tensor,
    spectrum_BF: Tensor,
    energy_BK: Tensor,
    loudness_B: Tensor,
    constants: spectral.SpectralConstants,
) -> list[Tensor]:
    """Measure the features of one stem, in the order of `STEM_FEATURES`."""
    power_BC = stem_BCT.square().mean(dim=-1)
    peak_BC = stem_BCT.abs().amax(dim=-1)
    ild_B, correlation_B, side_mid_B = level.stereo_image(stem_BCT, power_BC)
    return [
        level.rms_db(power_BC),
        level.crest_db(peak_BC, power_BC),
        loudness_B.unsqueeze(-1),
        loudness.dynamic_range_from_energy(energy_BK).unsqueeze(-1),
        spectral.band_levels_db(spectrum_BF, constants),
        spectral.tilt_db_per_octave(spectrum_BF, constants).unsqueeze(-1),
        spectral.flatness(spectrum_BF, constants).unsqueeze(-1),
        ild_B.unsqueeze(-1),
        correlation_B.unsqueeze(-1),
        side_mid_B.unsqueeze(-1),
    ]
