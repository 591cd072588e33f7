import pytest
import torch
from torch.nn import functional

from benchmarks.transfer import TCN_DILATIONS, PlainTCN
from mixprint.errors import ConfigError
from mixprint.transfer.methods.tcn import (
    KERNEL_SIZE,
    NUM_STEM_CHANNELS,
    TCN,
    dilated_conv1d,
    plan_dilations,
    receptive_field_samples,
)


@pytest.mark.parametrize("num_groups", [1, 4])
@pytest.mark.parametrize("dilation", [1, 2, 9, 729])
@pytest.mark.parametrize("num_samples", [1, 700, 5000])
def test_tiles_equal_the_plain_dilated_convolution(
    num_groups: int, dilation: int, num_samples: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    width = 8 // num_groups
    x_BCT = torch.randn(2, 8, num_samples, generator=generator, requires_grad=True)
    weight_GOIK = torch.randn(num_groups, width, width, 15, generator=generator)
    weight_GOIK.div_(11).requires_grad_()
    plain_BCT = functional.conv1d(
        x_BCT,
        weight_GOIK.flatten(0, 1),
        padding=7 * dilation,
        dilation=dilation,
        groups=num_groups,
    )
    tiled_BCT = dilated_conv1d(x_BCT, weight_GOIK, dilation, 7)
    torch.testing.assert_close(tiled_BCT, plain_BCT, atol=1e-5, rtol=0)
    wanted = torch.autograd.grad(plain_BCT.square().mean(), (x_BCT, weight_GOIK))
    found = torch.autograd.grad(tiled_BCT.square().mean(), (x_BCT, weight_GOIK))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_whole_stack_equals_the_plain_one() -> None:
    tcn, plain = TCN(TCN_DILATIONS), PlainTCN(TCN_DILATIONS)
    generator = torch.Generator().manual_seed(10)
    with torch.no_grad():
        for block, conv, mix in zip(tcn.blocks, plain.convs, plain.mixes, strict=True):
            block.mix_GOI.normal_(std=0.1, generator=generator)
            conv.weight.copy_(block.conv_GOIK.flatten(0, 1))
            mix.weight.copy_(block.mix_GOI.flatten(0, 1).unsqueeze(-1))
    x_BCT = torch.randn(1, NUM_STEM_CHANNELS, 30_000, generator=generator, requires_grad=True)
    found_BCT, wanted_BCT = tcn(x_BCT), plain(x_BCT)
    torch.testing.assert_close(found_BCT, wanted_BCT, atol=1e-5, rtol=0)
    gradients = [
        torch.autograd.grad(
            y_BCT.square().mean(), [x_BCT, stack[0].conv_GOIK if tiled else stack[0].weight]
        )
        for y_BCT, stack, tiled in (
            (found_BCT, tcn.blocks, True),
            (wanted_BCT, plain.convs, False),
        )
    ]
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients[0][1].flatten(0, 1), gradients[1][1], atol=1e-5, rtol=0)


def test_causal_padding_equals_a_shifted_plain_convolution() -> None:
    x_BCT = torch.randn(1, 8, 300, generator=torch.Generator().manual_seed(2))
    weight_GOIK = torch.randn(1, 8, 8, 15, generator=torch.Generator().manual_seed(3)) / 11
    plain_BCT = functional.conv1d(functional.pad(x_BCT, (14 * 4, 0)), weight_GOIK[0], dilation=4)
    torch.testing.assert_close(
        dilated_conv1d(x_BCT, weight_GOIK, 4, 14), plain_BCT, atol=1e-5, rtol=0
    )


def test_identity_to_the_bit_at_the_start() -> None:
    x_BCT = torch.randn(1, NUM_STEM_CHANNELS, 4000, generator=torch.Generator().manual_seed(4))
    tcn = TCN.for_receptive_field(0.05, 44_100, seed=5)
    assert torch.equal(tcn(x_BCT), x_BCT)


@pytest.mark.parametrize("num_samples", [2, 15, 16, 225, 226, 44_100, 88_200, 441_000])
def test_smallest_stack_that_covers(num_samples: int) -> None:
    dilations = plan_dilations(num_samples)
    assert receptive_field_samples(dilations) >= num_samples
    # One layer less cannot cover without gaps: 15 ** n is the most that n layers see.
    assert KERNEL_SIZE ** (len(dilations) - 1) < num_samples
    growth = dilations[1] if len(dilations) > 1 else 1
    assert growth <= KERNEL_SIZE


def test_two_seconds_take_five_blocks() -> None:
    # 15 ** 4 = 50,625 < 88,200; and 1 + 14 (1 + 9 + 81 + 729 + 6561) = 103,335.
    tcn = TCN.for_receptive_field(2.0, 44_100)
    assert tcn.dilations == (1, 9, 81, 729, 6561)
    assert tcn.receptive_field_samples == 103_335


@pytest.mark.parametrize("causal", [False, True])
def test_receptive_field_is_what_an_impulse_reaches(causal: bool) -> None:
    tcn = TCN((1, 3), kernel_size=5, causal=causal, cross_stem=True, seed=6)
    with torch.no_grad():
        for block in tcn.blocks:
            block.conv_GOIK.fill_(0.1)
            block.mix_GOI.fill_(0.1)
    x_BCT = torch.zeros(1, NUM_STEM_CHANNELS, 101)
    x_BCT[..., 50] = 1
    reached = tcn(x_BCT).abs().sum((0, 1)).nonzero().flatten()
    half = (tcn.receptive_field_samples - 1) // 2
    assert tcn.receptive_field_samples == 17
    expected = (50, 50 + 2 * half) if causal else (50 - half, 50 + half)
    assert (int(reached.min()), int(reached.max())) == expected


def test_stems_stay_apart_and_silence_stays_silent() -> None:
    tcn = TCN((1, 9), seed=7)
    with torch.no_grad():
        for block in tcn.blocks:
            block.mix_GOI.normal_(generator=torch.Generator().manual_seed(8))
    x_BCT = torch.randn(1, NUM_STEM_CHANNELS, 500, generator=torch.Generator().manual_seed(9))
    x_BCT[:, 2:4] = 0  # bass
    y_BCT = tcn(x_BCT)
    assert not torch.equal(y_BCT, x_BCT)
    assert torch.equal(y_BCT[:, 2:4], x_BCT[:, 2:4])
    changed_BCT = x_BCT.clone()
    changed_BCT[:, 4:6] += 1  # drums
    assert torch.equal(tcn(changed_BCT)[:, :4], y_BCT[:, :4])
    assert torch.equal(tcn(changed_BCT)[:, 6:], y_BCT[:, 6:])


@pytest.mark.parametrize(("num_samples", "kernel_size"), [(0, 15), (100, 14), (100, 1)])
def test_plan_refuses(num_samples: int, kernel_size: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        plan_dilations(num_samples, kernel_size)


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="8"):
        TCN((1,))(torch.zeros(1, 2, 100))
