"""The transform of real signals, and its adjoint."""

import pytest
import torch

from mixprint.dsp.fourier import rfft


@pytest.mark.parametrize("n", [10, 11, 16])
def test_it_and_its_gradient_are_those_of_pytorch(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    signal = torch.randn(3, 10, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = torch.randn(3, n // 2 + 1, dtype=torch.complex128, generator=generator)
    gradients = []
    for transform in (rfft, torch.fft.rfft):
        spectrum = transform(signal, n)
        (spectrum * weight).abs().sum().backward()
        gradients.append(signal.grad)
        signal.grad = None
    assert torch.equal(rfft(signal, n), torch.fft.rfft(signal, n))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
