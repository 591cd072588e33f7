"""Deviations of exports: what another program makes of one, beside the console's own rendering.

Each function of `DEVIATIONS` writes an export, reads it with what does not belong to the exporter,
renders it, and says how far this lies from the console, restricted to what the export can hold.

Shape suffixes: N track, C channel, T sample.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mixprint.console.export.apo import to_apo
from mixprint.console.export.impulse import impulses
from mixprint.console.importing.apo import strip_of_text
from mixprint.console.rendering import render
from mixprint.console.schema import TRACK_FIELDS
from mixprint.console.settings import Settings, Strip
from mixprint.evaluation.recovery_benchmark import as_settings
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import free_style

DURATION_S = 5.0
NUM_STYLES = 6


def measure() -> list[dict[str, object]]:
    """Measure all exports on noise, in styles that the generator draws.

    Returns:
        rows with `export` and `deviation_db`, that of the style which comes out worst.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(STEMS), 2, round(DURATION_S * SAMPLE_RATE_HZ))
    tracks_NCT = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    styles = [as_settings(free_style(Rng("exports", n))) for n in range(NUM_STYLES)]
    return [
        {"export": name, "deviation_db": max(deviation(each, tracks_NCT) for each in styles)}
        for name, deviation in DEVIATIONS.items()
    ]


def apo(settings: Settings, tracks_NCT: Tensor) -> float:
    """Read the text for Equalizer APO, and render its equalisers."""
    kept = _only(settings, "eq")
    texts = to_apo(kept)
    neutral = Strip.neutral(TRACK_FIELDS)
    read = Settings({name: strip_of_text(texts[name], neutral, name)[0] for name in kept.tracks})
    return _error_db(
        render(tracks_NCT, read, SAMPLE_RATE_HZ), render(tracks_NCT, kept, SAMPLE_RATE_HZ)
    )


def impulse_responses(settings: Settings, tracks_NCT: Tensor) -> float:
    """Convolve the tracks with the responses of their equalisers and rooms."""
    kept = _only(settings, "eq", "room")
    num_samples = tracks_NCT.shape[-1]
    found = []
    for (_, by_kind), track_CT in zip(
        impulses(kept, SAMPLE_RATE_HZ).items(), tracks_NCT, strict=True
    ):
        found.append(_convolved(track_CT, by_kind["eq"].expand(2, -1)))
        if "room" in by_kind:
            # What is sent to a room is the mean of both channels.
            sent_CT = found[-1].mean(0, keepdim=True).expand(2, -1)
            found[-1] = found[-1] + _convolved(sent_CT, by_kind["room"])
    return _error_db(
        torch.stack(found)[..., :num_samples], render(tracks_NCT, kept, SAMPLE_RATE_HZ)
    )


DEVIATIONS: Mapping[str, Callable[[Settings, Tensor], float]] = {
    "Equalizer APO: equalisers": apo,
    "impulse responses: equalisers and rooms": impulse_responses,
}


def _only(settings: Settings, *groups: str) -> Settings:
    """Leave nothing but some groups of the tracks."""
    neutral = Settings.neutral(list(settings.tracks))
    return neutral.lock(settings, [f"*.{group}" for group in groups]).lock(neutral, ["master"])


def _convolved(audio_CT: Tensor, impulse_CK: Tensor) -> Tensor:
    num_samples = audio_CT.shape[-1]
    num_fft = num_samples + impulse_CK.shape[-1] - 1
    product_CF = torch.fft.rfft(audio_CT, n=num_fft) * torch.fft.rfft(impulse_CK, n=num_fft)
    return torch.fft.irfft(product_CF, n=num_fft)[..., :num_samples]


def _error_db(found: Tensor, expected: Tensor) -> float:
    error = (found - expected).square().mean() / expected.square().mean()
    return 10 * math.log10(max(float(error), 1e-30))
