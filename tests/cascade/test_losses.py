"""What each loss prefers: the answer, or something that is easier to reach."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mixprint.cascade.losses import (
    Answer,
    SeedWeights,
    balance_loss,
    latent_distance,
    rhythm_loss,
    seed_losses,
    spectral_distance,
    undecided_loss,
)
from mixprint.cascade.model import Blend
from mixprint.codec.linear import LinearCodec
from mixprint.dsp.rhythm import onset_envelope
from tests.cascade.pieces import NUM_SAMPLES, RATE_HZ, answer, noise, piece

INPUT, TARGET = piece(0), piece(1)
MIXES: Mapping[str, Tensor] = {
    "answer": answer(INPUT, TARGET),
    "input": INPUT.mix,
    "target": TARGET.mix,
    "half": (INPUT.mix + TARGET.mix) / 2,
    "noise": noise(),
    "silence": torch.zeros(NUM_SAMPLES),
}
HEARD = {name: mix_T[None] for name, mix_T in MIXES.items()}


@pytest.fixture(scope="module")
def codec() -> LinearCodec:
    return LinearCodec.fitted([HEARD["input"], HEARD["target"]])


@pytest.fixture(scope="module")
def latents(codec: LinearCodec) -> Mapping[str, Tensor]:
    deviation_D1 = codec.deviation_D[:, None]
    return {name: codec.encode(audio_BT) / deviation_D1 for name, audio_BT in HEARD.items()}


@pytest.fixture(scope="module")
def known(latents: Mapping[str, Tensor]) -> Answer:
    return Answer(
        latents["answer"],
        HEARD["answer"],
        onset_envelope(INPUT.drums[None], RATE_HZ),
        onset_envelope(TARGET.drums[None], RATE_HZ),
    )


def test_each_loss_of_ours_prefers_the_answer(latents: Mapping[str, Tensor], known: Answer) -> None:
    found = {
        "latents": {n: latent_distance(z_BDN, known.z_BDN) for n, z_BDN in latents.items()},
        "spectra": {n: spectral_distance(x_BT, known.audio_BT) for n, x_BT in HEARD.items()},
        "rhythm": {
            n: rhythm_loss(onset_envelope(x_BT, RATE_HZ), known) for n, x_BT in HEARD.items()
        },
    }
    for name, losses in found.items():
        others = {each: float(loss) for each, loss in losses.items() if each != "answer"}
        # The input's rhythm is in the input, too.
        if name == "rhythm":
            assert others.pop("input") == pytest.approx(float(losses["answer"]), abs=0.4)
        assert float(losses["answer"]) < min(others.values()), (name, others)


def test_the_published_losses_prefer_half_of_each(latents: Mapping[str, Tensor]) -> None:
    """They are kept as they were, and this is why ours are others."""
    weights = SeedWeights()
    mask_BDN = torch.full_like(latents["half"], 0.5)

    def total(name: str) -> float:
        losses = seed_losses(
            Blend(mask_BDN, (latents[name],)),
            HEARD[name],
            (latents["input"], latents["target"]),
            (HEARD["input"], HEARD["target"]),
            RATE_HZ,
        )
        kept = ("input", "target", "correlation", "outliers")
        return float(sum(getattr(weights, each) * losses[each] for each in kept))

    assert total("half") < total("answer")
    assert total("noise") < total("input")


def test_masks_are_to_be_decided_and_to_change() -> None:
    halves = torch.full((1, 3, 8), 0.5)
    by_row = torch.tensor([1.0, 0.0, 1.0])[None, :, None].expand(1, 3, 8)
    by_time = (torch.arange(8) % 2).float().expand(1, 3, 8)
    of_halves, of_rows, of_times = (
        float(undecided_loss(mask_BDN)) for mask_BDN in (halves, by_row, by_time)
    )
    assert of_times == 0 < of_rows < of_halves
    assert of_halves == pytest.approx(1.05)


def test_the_balance_is_that_of_the_batch() -> None:
    of_one_song_each = torch.cat([torch.zeros(1, 2, 4), torch.ones(1, 2, 4)])
    assert float(balance_loss(of_one_song_each)) == 0
    assert float(balance_loss(torch.ones(2, 2, 4))) == 0.25


def test_gradients_are_finite_where_all_is_silent(codec: LinearCodec) -> None:
    silence_BT = torch.zeros(1, NUM_SAMPLES, requires_grad=True)
    z_BDN = codec.encode(silence_BT)
    onset_BN = onset_envelope(silence_BT, RATE_HZ)
    known = Answer(torch.zeros_like(z_BDN), torch.zeros(1, NUM_SAMPLES), onset_BN, onset_BN)
    losses = seed_losses(
        Blend(z_BDN.sigmoid(), (z_BDN,)), silence_BT, (z_BDN, z_BDN), (silence_BT,) * 2, RATE_HZ
    )
    total = sum(losses.values()) + latent_distance(z_BDN, known.z_BDN)
    total = total + spectral_distance(silence_BT, known.audio_BT) + rhythm_loss(onset_BN, known)
    torch.as_tensor(total).sum().backward()
    assert silence_BT.grad is not None
    assert silence_BT.grad.isfinite().all()
