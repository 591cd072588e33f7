"""All bands at once against one band after the other, and the parts of the way between."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.looped_bands import looped_bands
from mixprint.encoder.bands import BandBlock
from mixprint.encoder.model import MixEncoder
from mixprint.encoder.settings import EncoderConfig, TrainConfig

SAMPLE_RATE_HZ = 32_000
FULL = {"num_mels": 128, "band_mels": 20, "band_hop_mels": 10, "conv_channels": 32}


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> EncoderConfig:
    return make_config().encoder_config(SAMPLE_RATE_HZ)


def make_films(encoder: MixEncoder, num_items: int) -> list[Tensor]:
    """Gamma around 1, here and there negative, and beta."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.tensor([1.0, 0.0]).view(2, 1, 1)
        + 1.2 * torch.randn(2, num_items, block.conv.out_channels, generator=generator)
        for block in (encoder.block_1, encoder.block_2)
    ]


def results(
    run: Callable[..., Tensor], encoder: MixEncoder, levels: Tensor, films: list[Tensor]
) -> list[Tensor]:
    """Return the output, and the gradients of a fixed projection by all that goes in."""
    weights = [encoder.block_1.conv.weight, encoder.block_2.conv.weight]
    inputs = [levels.detach().requires_grad_(), *(f.detach().requires_grad_() for f in films)]
    output = run(inputs[0], inputs[1:])
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(4))
    loss = (output * direction).mean()
    return [output, *torch.autograd.grad(loss, [*inputs, *weights])]


@pytest.mark.parametrize("sizes", [{}, FULL], ids=["tiny", "full"])
@pytest.mark.parametrize("num_frames", [376, 433])
def test_all_bands_at_once_equal_one_band_after_the_other(
    config: EncoderConfig, sizes: dict[str, int], num_frames: int
) -> None:
    torch.manual_seed(0)
    encoder = MixEncoder(dataclasses.replace(config, **sizes))
    num_items = 1 if sizes else 3
    levels = torch.randn(num_items, 8, encoder.config.num_mels, num_frames)
    films = make_films(encoder, num_items)
    assert (films[0][0] < 0).any()
    looped = looped_bands(encoder, levels, films)
    together = encoder.bands(levels, films)
    # Relative to the largest value, which is 10 or so.
    tolerance = 1e-5 * looped.abs().max().item()
    torch.testing.assert_close(together, looped, atol=tolerance, rtol=0)


@pytest.mark.parametrize("sizes", [{}, FULL], ids=["tiny", "full"])
def test_gradients_of_all_bands_at_once_are_those_of_the_loop(
    config: EncoderConfig, sizes: dict[str, int]
) -> None:
    # In double precision: where two values of a pool are equal but for rounding, either way may
    # send the gradient to either of them.
    torch.manual_seed(0)
    encoder = MixEncoder(dataclasses.replace(config, **sizes)).double()
    levels = torch.randn(2, 8, encoder.config.num_mels, 65, dtype=torch.float64)
    films = [film.double() for film in make_films(encoder, 2)]
    together = results(encoder.bands, encoder, levels, films)
    looped = results(lambda *args: looped_bands(encoder, *args), encoder, levels, films)
    for a, b in zip(together, looped, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9 * b.abs().max().item(), rtol=0)


def test_embeddings_do_not_depend_on_how_the_bands_are_computed(
    config: EncoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    encoder = MixEncoder(dataclasses.replace(config, **FULL)).eval()
    stems, features = 0.1 * torch.randn(2, 4, 2, 3 * SAMPLE_RATE_HZ), torch.randn(2, 64)
    together = encoder(stems, features)
    monkeypatch.setattr(encoder, "bands", lambda *args: looped_bands(encoder, *args))
    torch.testing.assert_close(together, encoder(stems, features), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_frames", [16, 23, 24, 25, 47, 48, 49])
@pytest.mark.parametrize("num_rows", [8, 13])
def test_both_ways_are_one_block_at_any_length(num_frames: int, num_rows: int) -> None:
    torch.manual_seed(0)
    block = BandBlock(3, 4, 5, affine=False)
    x = torch.randn(2, 3, 4, num_rows, num_frames, requires_grad=True)
    film = torch.randn(2, 2, 15, requires_grad=True)
    found, expected = block(x, film), block._direct(x, film)
    assert found.shape == (2, 3, 5, num_rows // 2, num_frames // 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn(found.shape)
    of = [x, film, block.conv.weight]
    for a, b in zip(
        torch.autograd.grad((found * direction).sum(), of),
        torch.autograd.grad((expected * direction).sum(), of),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=0)


def test_rows_of_a_shared_spectrogram_are_the_bands() -> None:
    torch.manual_seed(0)
    rows = (slice(0, 8), slice(4, 12), slice(6, 14))
    shared = BandBlock(3, 2, 4, affine=True, band_rows=rows)
    cut = BandBlock(3, 2, 4, affine=True)
    cut.load_state_dict(shared.state_dict())
    x = torch.randn(2, 2, 14, 50)
    bands = torch.stack([x[:, :, row] for row in rows], dim=1)
    torch.testing.assert_close(shared(x, None), cut(bands, None))
    torch.testing.assert_close(shared._direct(x, film_of_norm(shared, 2)), shared(x, None))


def film_of_norm(block: BandBlock, num_items: int) -> Tensor:
    return torch.stack([block.norm.weight, block.norm.bias])[:, None].expand(-1, num_items, -1)


def test_a_kernel_of_one_tap_delays_and_nothing_wraps_round() -> None:
    # One tap at the kernel's corner: the output is the input three frames and three mels on, and
    # zero where that lies outside. What the norm does to it is undone by film.
    block = BandBlock(1, 1, 1, affine=False)
    with torch.no_grad():
        block.conv.weight.zero_()
        block.conv.weight[0, 0, 6, 6] = 1.0
    x = torch.rand(1, 1, 1, 8, 61)
    moved = functional.pad(x, (0, 3, 0, 3))[..., 3:, 3:]
    std, mean = torch.std_mean(moved, correction=0)
    film = torch.stack([(std.square() + block.norm.eps).sqrt(), mean]).view(2, 1, 1)
    expected = functional.max_pool2d(moved[:, 0], (2, 4))
    torch.testing.assert_close(block(x, film)[:, 0], expected, atol=1e-6, rtol=0)


def test_constant_levels_have_a_finite_gradient() -> None:
    block = BandBlock(2, 3, 4, affine=True)
    for level in (0.0, -2.0):
        x = torch.full((1, 2, 3, 8, 40), level, requires_grad=True)
        block(x, None).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_bfloat16_is_near_float32() -> None:
    torch.manual_seed(0)
    block, x = BandBlock(2, 8, 4, affine=True), torch.randn(1, 2, 8, 8, 40)
    with torch.autocast("cpu", torch.bfloat16):
        found = block(x, None)
    assert (found - block(x, None)).abs().max() < 0.1


def test_first_call_in_inference_mode_leaves_gradients_working() -> None:
    block = copy.deepcopy(BandBlock(2, 3, 4, affine=True))
    x = torch.randn(1, 2, 3, 8, 40)
    with torch.inference_mode():
        expected = block(x, None).clone()
    found = block(x, None)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), expected)
    assert block.conv.weight.grad is not None
    gradient = block.conv.weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
