"""Dynamics processors.

Shape suffixes: N signal, C channel, T sample.
"""

import torch
from torch import Tensor

from mixprint.chains.effect import SILENCE, Effect, Parameter, Values, rms
from mixprint.dsp import dynamics

FAMILY = "dynamics"
_ATTACK = Parameter("attack_ms", "ms", 0.5, 60.0, "log")
_RELEASE = Parameter("release_ms", "ms", 20.0, 600.0, "log")
# Of a stem's own level.
_THRESHOLD = Parameter("threshold_db", "dB", -24.0, 0.0)
_RATIO = Parameter("ratio", "", 1.5, 12.0, "log")
_RANGE = Parameter("range_db", "dB", 6.0, 24.0)


def _compressor(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.compressed(
        audio_NCT,
        values["threshold_db"],
        values["ratio"],
        values["attack_ms"],
        values["release_ms"],
        sample_rate_hz,
    )


def _parallel_compressor(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    squeezed_NCT = _compressor(audio_NCT, values, sample_rate_hz)
    # Added at the level of the input: what was turned down comes back up.
    gain_N = values["mix"] * rms(audio_NCT) / rms(squeezed_NCT).clamp_min(SILENCE)
    return audio_NCT + gain_N[:, None, None] * squeezed_NCT


def _limiter(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    threshold_db_N, release_ms_N = values["threshold_db"], values["release_ms"]
    return dynamics.limited(audio_NCT, threshold_db_N, release_ms_N, sample_rate_hz)


def _expander(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.expanded(
        audio_NCT,
        values["threshold_db"],
        values["ratio"],
        values["attack_ms"],
        values["release_ms"],
        sample_rate_hz,
    )


def _gate(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.gated(
        audio_NCT,
        values["threshold_db"],
        values["range_db"],
        values["attack_ms"],
        values["release_ms"],
        sample_rate_hz,
    )


def _upward_compressor(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.raised(
        audio_NCT,
        values["threshold_db"],
        values["ratio"],
        values["range_db"],
        values["attack_ms"],
        values["release_ms"],
        sample_rate_hz,
    )


def _multiband_compressor(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.compressed_in_bands(
        audio_NCT,
        torch.stack([values["low_crossover_hz"], values["high_crossover_hz"]], dim=-1),
        values["threshold_db"],
        torch.stack([values[f"{band}_ratio"] for band in ("low", "mid", "high")], dim=-1),
        values["attack_ms"],
        values["release_ms"],
        sample_rate_hz,
    )


def _de_esser(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.de_essed(
        audio_NCT,
        values["crossover_hz"],
        values["threshold_db"],
        values["range_db"],
        sample_rate_hz,
    )


def _transient_shaper(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.shaped(audio_NCT, values["attack_db"], values["sustain_db"], sample_rate_hz)


def _pumping(audio_NCT: Tensor, values: Values, sample_rate_hz: int) -> Tensor:
    return dynamics.pumped(
        audio_NCT,
        values["tempo_bpm"],
        values["phase"],
        values["depth_db"],
        values["recovery"],
        sample_rate_hz,
    )


EFFECTS = (
    Effect("compressor", FAMILY, (_THRESHOLD, _RATIO, _ATTACK, _RELEASE), _compressor),
    Effect(
        "parallel_compressor",
        FAMILY,
        (_THRESHOLD, _RATIO, _ATTACK, _RELEASE, Parameter("mix", "", 0.4, 2.0, "log")),
        _parallel_compressor,
    ),
    Effect(
        "limiter",
        FAMILY,
        (
            Parameter("threshold_db", "dB", -15.0, 0.0),
            Parameter("release_ms", "ms", 5.0, 300.0, "log"),
        ),
        _limiter,
    ),
    Effect(
        "expander",
        FAMILY,
        (
            Parameter("threshold_db", "dB", -12.0, 3.0),
            Parameter("ratio", "", 1.3, 4.0, "log"),
            _ATTACK,
            _RELEASE,
        ),
        _expander,
    ),
    Effect(
        "gate",
        FAMILY,
        (
            Parameter("threshold_db", "dB", -15.0, 3.0),
            Parameter("range_db", "dB", 12.0, 60.0),
            Parameter("attack_ms", "ms", 0.5, 20.0, "log"),
            Parameter("release_ms", "ms", 10.0, 300.0, "log"),
        ),
        _gate,
    ),
    Effect(
        "upward_compressor",
        FAMILY,
        (Parameter("threshold_db", "dB", -12.0, 6.0), _RATIO, _RANGE, _ATTACK, _RELEASE),
        _upward_compressor,
        is_held_out=True,
    ),
    Effect(
        "multiband_compressor",
        FAMILY,
        (
            Parameter("low_crossover_hz", "Hz", 80.0, 400.0, "log"),
            Parameter("high_crossover_hz", "Hz", 1_500.0, 6_000.0, "log"),
            _THRESHOLD,
            Parameter("low_ratio", "", 1.0, 10.0, "log"),
            Parameter("mid_ratio", "", 1.0, 10.0, "log"),
            Parameter("high_ratio", "", 1.0, 10.0, "log"),
            _ATTACK,
            _RELEASE,
        ),
        _multiband_compressor,
    ),
    Effect(
        "de_esser",
        FAMILY,
        (
            Parameter("crossover_hz", "Hz", 3_000.0, 8_000.0, "log"),
            Parameter("threshold_db", "dB", -12.0, 3.0),
            _RANGE,
        ),
        _de_esser,
    ),
    Effect(
        "transient_shaper",
        FAMILY,
        (Parameter("attack_db", "dB", -15.0, 15.0), Parameter("sustain_db", "dB", -15.0, 15.0)),
        _transient_shaper,
    ),
    Effect(
        "pumping",
        FAMILY,
        (
            Parameter("tempo_bpm", "1/min", 60.0, 180.0, "log"),
            Parameter("phase", "turns", 0.0, 1.0, is_style=False),
            Parameter("depth_db", "dB", 4.0, 30.0),
            Parameter("recovery", "", 0.3, 1.0),
        ),
        _pumping,
        is_held_out=True,
    ),
)
