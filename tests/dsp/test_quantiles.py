import torch

from mixprint.dsp.quantiles import sorted_quantiles

PARTS = (0.0, 0.1, 0.5, 0.9, 1.0)


def test_quantiles_of_a_part_of_a_row_are_those_of_what_it_holds() -> None:
    value_BK = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    last_B = torch.tensor([8, 4, 1, 0])
    held_BK = value_BK.masked_fill(torch.arange(9) > last_B[:, None], torch.nan)
    expected_QB = torch.nanquantile(held_BK, torch.tensor(PARTS), dim=1)
    torch.testing.assert_close(sorted_quantiles(value_BK, last_B, PARTS), expected_QB.T)


def test_the_gradient_lies_on_the_two_neighbours() -> None:
    value_1K = torch.tensor([[1.0, 2.0, 4.0, torch.inf]], requires_grad=True)
    found_1Q = sorted_quantiles(value_1K, torch.tensor([2]), (0.625,))
    assert found_1Q.item() == 2.5
    (grad_1K,) = torch.autograd.grad(found_1Q.sum(), value_1K)
    assert grad_1K.tolist() == [[0.0, 0.75, 0.25, 0.0]]
