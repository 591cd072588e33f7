"""The denoiser: its start from an SCNet, and what each option of it does."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.backbones import NUM_LEVELS, levels, rotated
from mixprint.separation.diffusion.losses import denoising_losses
from mixprint.separation.diffusion.model import (
    FADING,
    LIKELY,
    USUAL_VARIANCE,
    Denoised,
    Denoiser,
    Prior,
    denoised_examples,
    from_scnet,
    is_new,
)
from mixprint.separation.diffusion.training_settings import LossWeights
from mixprint.separation.scnet.model import build_scnet
from tests.separation.diffusion.trials import BLOCKS, HOP, config, denoiser, music, scnet, shaken

LENGTH = 15 * HOP
NUM_FRAMES = 15  # with sound in them
BACKBONES = ("bands", "conformer", "unet")


def _inputs(network: Denoiser) -> tuple[Tensor, Tensor]:
    """A noisy instrumental and a mixture of two examples."""
    mixture_BCFN = network.analyse(torch.stack([music(LENGTH), music(LENGTH, 1)]))
    generator = torch.Generator().manual_seed(5)
    real, imag = torch.randn(2, *mixture_BCFN.shape, generator=generator)
    return torch.complex(real, imag), mixture_BCFN


def _run(network: Denoiser, time: float = 0.5, prior: Prior | None = None) -> Denoised:
    z_BCFN, mixture_BCFN = _inputs(network)
    alpha_B, sigma_B = network.schedule.coefficients(torch.full((2,), time))
    with torch.inference_mode():
        return network(z_BCFN, mixture_BCFN, alpha_B, sigma_B, prior)


def test_it_begins_as_the_scnet_to_the_bit() -> None:
    network = scnet()
    fresh = from_scnet(network, config()).eval()
    _, mixture_BCFN = _inputs(fresh)
    with torch.inference_mode():
        stems_BSCFN = network.estimate(mixture_BCFN)
    expected_BCFN = stems_BSCFN[:, network.config.sources.index("vocals")]
    assert expected_BCFN.abs().max() > 0.01
    prior = Prior(0.5 * mixture_BCFN, torch.tensor([1.0, 0.0]))
    for given in (None, prior):
        assert torch.equal(_run(fresh, 1.0, given).vocals_BCFN, expected_BCFN)


@pytest.mark.parametrize("time", [1e-4, 0.1, 0.3, 0.9])
def test_it_begins_with_the_best_estimate_of_gaussian_errors(time: float) -> None:
    fresh = from_scnet(scnet(), config()).eval()
    noise_BCFN, mixture_BCFN = _inputs(fresh)
    own_BCFN = _run(fresh, 1.0).x0_BCFN
    # The noisy signal lies a hundredth beside the network's own estimate: no mask is at its bound.
    beside_BCFN = own_BCFN * (1 + 0.01 * noise_BCFN)
    alpha_B, sigma_B = fresh.schedule.coefficients(torch.full((2,), time))
    alpha, sigma = alpha_B[0].item(), sigma_B[0].item()
    with torch.inference_mode():
        x0_BCFN = fresh(alpha * beside_BCFN, mixture_BCFN, alpha_B, sigma_B).x0_BCFN
    share = USUAL_VARIANCE / (USUAL_VARIANCE + (sigma / alpha) ** 2)
    expected_BCFN = own_BCFN + share * (beside_BCFN - own_BCFN)
    torch.testing.assert_close(x0_BCFN, expected_BCFN, rtol=1e-3, atol=1e-4)


def test_what_is_new_in_it_learns() -> None:
    fresh = from_scnet(scnet(), config())
    z_BCFN, mixture_BCFN = _inputs(fresh)
    time_B = torch.tensor([0.3, 0.8])
    examples = denoised_examples(fresh, mixture_BCFN, 0.5 * mixture_BCFN, time_B, z_BCFN)
    weights = LossWeights(vocal=1.0, linear=1.0, variance=1.0, presence=1.0)
    denoising_losses(fresh, examples, weights).total_B.sum().backward()
    gradients = {name: weight.grad for name, weight in fresh.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in gradients.values())
    moved = [name for name, grad in gradients.items() if grad is not None and grad.any()]
    assert any("extra_convs" in name for name in moved)
    assert any("films.0" in name for name in moved)
    assert "presence.outward.weight" in moved


def test_only_what_an_scnet_does_not_have_is_new() -> None:
    fresh, known = from_scnet(scnet(), config()), scnet().state_dict()
    names = {name.removeprefix("backbone.").removeprefix("body.") for name in known}
    for name, weight in fresh.named_parameters():
        plain = name.removeprefix("backbone.").removeprefix("body.")
        assert is_new(name) != (plain in names), name
        assert weight.requires_grad


def test_the_width_of_what_tells_vocals_counts() -> None:
    def presence(width: int) -> Tensor:
        masked = _run(denoiser(presence=width)).masked
        assert masked is not None
        return masked.presence_BN

    assert not torch.allclose(presence(8), presence(9), atol=1e-3)


def test_levels_are_of_vocals_beside_the_mixture() -> None:
    network = denoiser()
    _, mixture_BCFN = _inputs(network)
    all_BLN = levels(0.1 * mixture_BCFN, mixture_BCFN, network.config)
    level_BLN = all_BLN[..., :NUM_FRAMES]
    assert level_BLN.shape[1] == NUM_LEVELS
    whole, loudness = NUM_LEVELS // 2 - 1, NUM_LEVELS - 1
    assert level_BLN[:, whole].mean().item() == pytest.approx(-2.0, abs=0.01)
    # The last is the vocals' beside the mean of the mixture.
    mean_B = (10 ** all_BLN[:, loudness]).mean(dim=1)
    torch.testing.assert_close(mean_B, torch.full((2,), 0.01), rtol=0.1, atol=0)
    louder_BLN = levels(mixture_BCFN, 10 * mixture_BCFN, network.config)[..., :NUM_FRAMES]
    torch.testing.assert_close(louder_BLN, level_BLN, atol=0.02, rtol=0)
    silence_BCFN = torch.zeros_like(mixture_BCFN)
    assert levels(silence_BCFN, silence_BCFN, network.config).isfinite().all()


def test_vocals_fade_in_frames_that_are_unlikely_to_have_any() -> None:
    network = denoiser()
    *_, last = network.presence.children()

    def run(logit: float) -> Denoised:
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, logit)
        return _run(network, 1.0)  # where nothing but the mask tells

    half = LIKELY * 0.5 ** (1 / FADING)
    logits = (9.0, math.log(LIKELY / (1 - LIKELY)) + 1e-3, math.log(half / (1 - half)), -99.0)
    whole, likely, halved, none = (run(logit).vocals_BCFN for logit in logits)
    torch.testing.assert_close(likely, whole, rtol=0, atol=0)
    torch.testing.assert_close(halved, 0.5 * whole, rtol=1e-3, atol=1e-6)
    assert not none.abs().any()


def test_a_start_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="found a plain one"):
        from_scnet(build_scnet(BLOCKS, "plain"))
    with pytest.raises(ConfigError, match="found unet with mask"):
        from_scnet(scnet(), config(backbone="unet"))
    with pytest.raises(ConfigError, match="found bands with free"):
        from_scnet(scnet(), config(head="free"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_input_counts(backbone: str) -> None:
    network = denoiser(backbone=backbone)
    known = _run(network).x0_BCFN
    _, mixture_BCFN = _inputs(network)
    prior = Prior(0.5 * mixture_BCFN, torch.tensor([1.0, 0.0]))
    given = _run(network, prior=prior).x0_BCFN
    assert not torch.allclose(given[0], known[0], atol=1e-4)
    torch.testing.assert_close(given[1], known[1])  # what is not given is not looked at
    silent = _run(network, prior=Prior(0 * mixture_BCFN, torch.ones(2))).x0_BCFN
    assert not torch.allclose(silent, known, atol=1e-4)  # but that it is given is
    assert not torch.allclose(_run(network, 0.1).x0_BCFN, known, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "conformer"},
        {"backbone": "unet"},
        {"power": 0.7},
        {"schedule": "linear"},
        {"head": "free"},
    ],
)
def test_every_option_counts(changes: dict) -> None:
    known, other = _run(denoiser()), _run(denoiser(**changes))
    assert not torch.allclose(known.x0_BCFN, other.x0_BCFN, atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [
        ("conformer", {"width": 16}),
        ("conformer", {"num_heads": 1}),
        ("conformer", {"hidden": 16}),
        ("conformer", {"num_layers": 1}),
        ("conformer", {"kernel": 5}),
        ("conformer", {"patch": 8}),
        ("unet", {"width": 16}),
        ("unet", {"multipliers": (1, 2, 2)}),
        ("unet", {"num_heads": 1}),
        ("unet", {"patch": 4}),
    ],
)
def test_every_size_of_a_backbone_counts(backbone: str, changes: dict) -> None:
    sizes = getattr(config(), backbone)
    known, other = (
        _run(denoiser(backbone=backbone, **{backbone: each}))
        for each in (sizes, replace(sizes, **changes))
    )
    assert not torch.allclose(known.x0_BCFN, other.x0_BCFN, atol=1e-3)


def test_the_target_v_is_a_skip_of_the_noisy_signal() -> None:
    plain, skipping = (denoiser(head="free", target=target) for target in ("x0", "v"))
    z_BCFN, _ = _inputs(plain)
    alpha, sigma = plain.schedule.noise_at(0.5)
    expected = alpha * z_BCFN - sigma * _run(plain).x0_BCFN
    found = _run(skipping).x0_BCFN
    torch.testing.assert_close(found[..., :NUM_FRAMES], expected[..., :NUM_FRAMES])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", ["mask", "free"])
def test_silence_stays_silent_and_vocals_are_the_difference(backbone: str, head: str) -> None:
    network = denoiser(backbone=backbone, head=head)
    z_BCFN, mixture_BCFN = _inputs(network)
    mixture_BCFN[:, :, :, 4:7] = 0
    coefficients = network.schedule.coefficients(torch.full((2,), 0.5))
    with torch.inference_mode():
        found = network(z_BCFN, mixture_BCFN, *coefficients)
    assert not found.instrumental_BCFN[..., 4:7].any()
    assert not found.vocals_BCFN[..., 4:7].any()
    assert found.instrumental_BCFN[..., 7:].abs().max() > 0.01
    total_BCFN = found.instrumental_BCFN + found.vocals_BCFN
    torch.testing.assert_close(total_BCFN, mixture_BCFN, rtol=1e-5, atol=1e-6)
    expanded_BCFN = network.compression.expand(found.x0_BCFN)
    torch.testing.assert_close(expanded_BCFN, found.instrumental_BCFN, rtol=1e-4, atol=1e-6)


def test_the_mask_is_bounded() -> None:
    network = denoiser()
    with torch.no_grad():
        for parameter in network.backbone.mask_layer.parameters():
            parameter *= 1000
    _, mixture_BCFN = _inputs(network)
    parts = torch.view_as_real(_run(network).vocals_BCFN / mixture_BCFN)[..., :NUM_FRAMES, :]
    assert 0.99 < parts.abs().max() < 1.001


@pytest.mark.parametrize("backbone", BACKBONES)
def test_examples_of_a_batch_are_on_their_own(backbone: str) -> None:
    network = denoiser(backbone=backbone)
    z_BCFN, mixture_BCFN = _inputs(network)
    time_B = torch.tensor([0.2, 1.0])
    both = denoised_examples(network, mixture_BCFN, 0.5 * mixture_BCFN, time_B, z_BCFN)
    for row in (slice(0, 1), slice(1, 2)):
        one = denoised_examples(
            network, mixture_BCFN[row], 0.5 * mixture_BCFN[row], time_B[row], z_BCFN[row]
        )
        torch.testing.assert_close(
            one.estimate.x0_BCFN, both.estimate.x0_BCFN[row], rtol=0, atol=1e-4
        )


def test_ingredients_are_those_of_the_time() -> None:
    network = denoiser()
    noise_BCFN, mixture_BCFN = _inputs(network)
    found = denoised_examples(
        network, mixture_BCFN, 0.25 * mixture_BCFN, torch.tensor([0.5, 1.0]), noise_BCFN
    )
    torch.testing.assert_close(found.x0_BCFN, network.compression.compress(0.25 * mixture_BCFN))
    expected = (found.x0_BCFN + noise_BCFN) * 0.5**0.5
    torch.testing.assert_close(found.z_BCFN[0], expected[0])
    assert torch.equal(found.z_BCFN[1], noise_BCFN[1])
    torch.testing.assert_close(found.vocals_BCFN, 0.75 * mixture_BCFN)
    assert found.snr_B.tolist() == pytest.approx([1.0, 0.0])
    *spectra, masked = found.estimate
    assert all(value.isfinite().all() for value in (*spectra, *masked))


def test_rotary_positions_are_relative() -> None:
    query, key = torch.randn(2, 1, 1, 1, 6).expand(-1, -1, -1, 9, -1)
    product_LL = (rotated(query) @ rotated(key).transpose(-1, -2))[0, 0]
    for offset in range(9):
        diagonal = product_LL.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.allclose(product_LL[0, 0], product_LL[0, 1])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_place_follows_from_other_times_and_other_rows(backbone: str) -> None:
    network = shaken(denoiser(backbone=backbone), seed=9)
    z_BCFN, mixture_BCFN = _inputs(network)
    z_BCFN.requires_grad_()
    coefficients = network.schedule.coefficients(torch.full((2,), 0.5))
    found = network(z_BCFN, mixture_BCFN, *coefficients)
    found.x0_BCFN[0, 0, 30, 8].abs().backward()
    assert z_BCFN.grad is not None
    gradient_FN = z_BCFN.grad[0, 0].abs()
    assert gradient_FN[30, :4].max() > 0
    assert gradient_FN[100:, 8].max() > 0


def test_replacing_the_blocks_takes_those_of_the_scnet() -> None:
    other = replace(BLOCKS, dims=(4, 8))
    assert from_scnet(scnet(), config(blocks=other)).config.blocks == BLOCKS
