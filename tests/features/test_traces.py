import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mixprint.features.descriptors import (
    NUM_DESCRIPTORS,
    SAMPLE_RATE_HZ,
    describe,
    describe_spectra,
    mid_side_spectra,
    shifted,
)
from mixprint.features.traces import (
    FLATNESS_EDGES_BINS,
    NUM_EFFECT_DESCRIPTORS,
    NUM_TRACES,
    QUEFRENCY_EDGES_SAMPLES,
    TRACE_PLACES,
    describe_effects,
    measure_traces,
)

NUM_SAMPLES = 3 * SAMPLE_RATE_HZ
EULER = 0.5772156649


def noise(seed: int = 0) -> Tensor:
    """White noise of deviation 0.1 in one channel."""
    return 0.1 * torch.randn(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))


def sine(frequency_hz: float) -> Tensor:
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(NUM_SAMPLES) / SAMPLE_RATE_HZ + 0.1)


def square_wave() -> Tensor:
    return sine(90.0).sign()  # a whole number of samples for each half


def click() -> Tensor:
    audio_T = torch.zeros(NUM_SAMPLES)
    audio_T[NUM_SAMPLES // 2] = 1.0
    return audio_T


def traces(left_T: Tensor, right_T: Tensor | None = None) -> dict[str, Tensor]:
    audio_2T = torch.stack([left_T, left_T if right_T is None else right_T])
    trace_D = describe_effects(audio_2T[None])[0, NUM_DESCRIPTORS:]
    return {name: trace_D[place] for name, place in TRACE_PLACES.items()}


def test_a_panned_sound_has_its_level_difference_in_every_mel() -> None:
    found = traces(noise(), 0.5 * noise())
    torch.testing.assert_close(found["panning"], torch.full((20,), 6.0206), atol=2e-3, rtol=0)
    torch.testing.assert_close(found["correlation"], torch.ones(20), atol=1e-3, rtol=0)
    turned = traces(0.5 * noise(), -noise())
    torch.testing.assert_close(turned["panning"], -found["panning"], atol=1e-4, rtol=0)
    torch.testing.assert_close(turned["correlation"], -torch.ones(20), atol=1e-3, rtol=0)


def test_channels_that_share_half_their_power_correlate_by_half() -> None:
    shared_T = noise()
    found = traces(shared_T + noise(1), shared_T + noise(2))
    # The lowest mels hold a few bins.
    assert found["correlation"][8:].mean() == pytest.approx(0.5, abs=0.01)
    assert found["panning"][8:].abs().max() < 0.3
    # At one side alone the ratio ends: half of the power is mid, half side.
    alone = traces(shared_T, 0 * shared_T)
    expected = 10 * math.log10(1 + 2 / 1e-4)
    torch.testing.assert_close(alone["panning"], torch.full((20,), expected), atol=0.02, rtol=0)


def test_a_comb_filter_shows_in_its_class_of_quefrency() -> None:
    delay = round(2e-3 * SAMPLE_RATE_HZ)
    dry_T = noise()
    wet_T = dry_T + 0.5 * torch.cat([torch.zeros(delay), dry_T[:-delay]])
    dry_2Q, wet_2Q = (traces(x_T)["cepstrum"].view(2, -1) for x_T in (dry_T, wet_T))
    edges = list(pairwise(QUEFRENCY_EDGES_SAMPLES))
    (place,) = (q for q, (low, high) in enumerate(edges) if low <= delay < high)
    assert (wet_2Q - dry_2Q).argmax(dim=1).tolist() == [place, place]
    # log |1 + g z^-d|^2 has the cepstrum g at d, and the class is the RMS of its samples.
    expected = math.log(0.5 / math.sqrt(edges[place][1] - edges[place][0]))
    assert wet_2Q[:, place].tolist() == pytest.approx([expected] * 2, abs=0.1)
    # Where the side has none of it, mid alone shows it in full.
    side_T = noise(3)
    mixed_2Q = traces(wet_T + 2 * side_T, wet_T - 2 * side_T)["cepstrum"].view(2, -1)
    assert mixed_2Q[0, place] == pytest.approx(float(wet_2Q[0, place]), abs=1e-3)
    assert mixed_2Q[1, place] < mixed_2Q[0, place] - 1


def test_flatness_tells_noise_from_a_sine() -> None:
    of_frames_B, of_mean_B = traces(noise())["flatness"].view(2, -1)
    # The power of a bin of noise has an exponential distribution, its mean over time is smooth.
    assert of_frames_B[2:].tolist() == pytest.approx([-EULER] * 6, abs=0.03)
    assert of_mean_B[2:].tolist() == pytest.approx([0.0] * 6, abs=0.02)
    bin_hz = SAMPLE_RATE_HZ / 2048
    tone = traces(0.5 * sine(bin_hz * (FLATNESS_EDGES_BINS[3] + FLATNESS_EDGES_BINS[4]) / 2))
    assert (tone["flatness"].view(2, -1)[:, 3] < -8).all()


def test_clipping_shows_near_the_peak_and_in_samples_that_repeat() -> None:
    clipped_T = noise().clamp(-0.1, 0.1)
    dry_W, wet_W = traces(noise())["waveform"], traces(clipped_T)["waveform"]
    # Parts of a normal distribution beyond 0.98, 0.9 and 0.5 deviations.
    beyond = [math.erfc(part / math.sqrt(2)) for part in (0.98, 0.9, 0.5)]
    assert wet_W[2:5].exp().tolist() == pytest.approx(beyond, abs=0.005)
    assert (dry_W[2:4] < wet_W[2:4] - 4).all()
    at_once = 2 * (math.erfc(1 / math.sqrt(2)) / 2) ** 2
    assert wet_W[8].exp() == pytest.approx(at_once, abs=0.005)
    assert dry_W[8].exp() < 0.001
    assert wet_W[7].exp() == pytest.approx(0.5, abs=0.01)
    assert wet_W[1] < dry_W[1] == pytest.approx(math.log(3), abs=0.03)


def test_a_square_wave_is_all_peak() -> None:
    found = traces(square_wave())
    changes = 180 / SAMPLE_RATE_HZ
    low = math.log(1e-4)
    expected = [0, 0, 0, 0, 0, low, low, math.log(changes + 1e-4), math.log(1 - changes), low]
    # Kurtosis and peak have floors.
    assert found["waveform"].tolist() == pytest.approx(expected, abs=0.01)
    assert found["crests"].abs().max() < 1e-4


def test_pulses_lean_to_one_side() -> None:
    pulses_T = (torch.arange(NUM_SAMPLES) % 4 == 0).float()
    waveform_W = traces(pulses_T)["waveform"]
    # Of a part p of ones: p^-1/2, p^-1 and p^1/2.
    assert waveform_W[0] == pytest.approx(2.0, rel=1e-3)
    assert waveform_W[[1, 9]].exp().tolist() == pytest.approx([4.0, 0.5], rel=1e-3)
    assert traces(-pulses_T)["waveform"][0] == pytest.approx(-2.0, rel=1e-3)


def test_crests_are_those_of_what_sounds_and_levels_those_of_all() -> None:
    audio_T = sine(100.0)
    # 40 dB below the sine, of a square's crest of 0 dB.
    audio_T[NUM_SAMPLES // 2 :] = audio_T[NUM_SAMPLES // 2 :].sign() * 0.01 * math.sqrt(0.5)
    crests = traces(audio_T)["crests"].view(2, 7)
    # A block of 10 ms is one period.
    torch.testing.assert_close(crests[:, :3], torch.full((2, 3), 3.0103), atol=0.01, rtol=0)
    for levels in crests[:, [3, 4, 6]].tolist():
        assert levels == pytest.approx([-40, -40, 0], abs=0.01)


def test_the_gain_changes_levels_alone() -> None:
    audio_12T = torch.stack([noise(), 0.3 * noise() + 0.2 * noise(1)])[None]
    found_1D = describe_effects(audio_12T)
    quiet_1D = describe_effects(0.25 * audio_12T)
    change_db_1 = torch.tensor([20 * math.log10(0.25)])
    torch.testing.assert_close(
        quiet_1D[:, NUM_DESCRIPTORS:], found_1D[:, NUM_DESCRIPTORS:], atol=2e-3, rtol=0
    )
    torch.testing.assert_close(shifted(found_1D, change_db_1), quiet_1D, atol=0.1, rtol=0)


def test_descriptors_come_first_and_a_batch_is_described_as_its_items_are() -> None:
    """On a GPU a batch is measured at once, on a CPU one by one."""
    audio_N2T = torch.stack([torch.stack([noise(n), noise(n + 1) * 0.3**n]) for n in (0, 2)])
    audio_N2T[1, :, : NUM_SAMPLES // 2] *= 1e-3
    found_ND = describe_effects(audio_N2T)
    assert found_ND.shape == (2, NUM_EFFECT_DESCRIPTORS)
    assert torch.equal(found_ND[:, :NUM_DESCRIPTORS], describe(audio_N2T))
    spectra = mid_side_spectra(audio_N2T)
    at_once_ND = torch.cat([describe_spectra(spectra), measure_traces(spectra)], dim=1)
    torch.testing.assert_close(at_once_ND, found_ND, atol=1e-3, rtol=1e-4)


def test_the_gradient_to_the_left_turns_the_panning_to_the_left() -> None:
    audio_12T = torch.stack([noise(), noise(1)])[None].requires_grad_()
    panning_K = describe_effects(audio_12T)[0, NUM_DESCRIPTORS:][TRACE_PLACES["panning"]]
    (grad_12T,) = torch.autograd.grad(panning_K.mean(), audio_12T)
    along_2 = (grad_12T * audio_12T).sum(dim=(0, 2))
    expected = 20 / math.log(10)
    assert along_2.tolist() == pytest.approx([expected, -expected], rel=1e-3)


EDGES: dict[str, Callable[[], list[Tensor]]] = {
    "silence": lambda: [torch.zeros(NUM_SAMPLES)] * 2,
    "mono": lambda: [noise()] * 2,
    "one side": lambda: [noise(), torch.zeros(NUM_SAMPLES)],
    "click": lambda: [click()] * 2,
    "square wave": lambda: [square_wave()] * 2,
    "offset": lambda: [torch.ones(NUM_SAMPLES), -torch.ones(NUM_SAMPLES)],
}


@pytest.mark.parametrize("name", EDGES)
def test_traces_and_their_gradients_are_finite(name: str) -> None:
    audio_12T = torch.stack(EDGES[name]())[None].requires_grad_()
    trace_D = measure_traces(mid_side_spectra(audio_12T))[0]
    assert trace_D.shape == (NUM_TRACES,)
    assert trace_D.isfinite().all()
    for place in TRACE_PLACES.values():
        # With weights of their own no two gradients cancel out.
        weighted = trace_D[place] @ torch.arange(1.0, place.stop - place.start + 1)
        (grad_12T,) = torch.autograd.grad(weighted, audio_12T, retain_graph=True)
        assert grad_12T.isfinite().all()
