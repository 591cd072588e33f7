import torch

from mixprint.controller.prior import Prior


def test_a_prior_has_the_mean_of_each_role_and_hears_what_is_heard() -> None:
    generator = torch.Generator().manual_seed(0)
    role_M = torch.arange(400) % 2 + 1
    position_MK = torch.randn(400, 3, generator=generator) * torch.tensor([0.1, 0.2, 0.05]) + 0.5
    position_MK[:, 0] += 0.2 * (role_M == 1)
    position_MK[:, 1] += position_MK[:, 0]
    weight_MK = torch.ones(400, 3)
    # Half of the third setting is wrong, and not heard.
    position_MK[::2, 2], weight_MK[::2, 2] = 0.0, 0.0
    prior = Prior(2, torch.zeros(3))
    prior.fit(position_MK, weight_MK, role_M, shrinkage=0.0)
    torch.testing.assert_close(
        prior.mean(torch.tensor([0, 1, 2]))[:, 0], torch.tensor([0.6, 0.7, 0.5]), atol=0.03, rtol=0
    )
    torch.testing.assert_close(prior.mean_RK[0, 2], torch.tensor(0.5), atol=0.02, rtol=0)
    odd = slice(1, None, 2)
    mean = float(prior.distance(position_MK[odd], role_M[odd]).mean())
    assert 0.7 < mean < 1.3
    # The first two move together: against that, the same way is further.
    with_M, against_M = torch.tensor([[0.1, 0.1, 0.0], [0.1, -0.1, 0.0]]) + prior.mean_RK[1]
    near, far = prior.distance(torch.stack([with_M, against_M]), torch.tensor([1, 1]))
    assert far > 1.5 * near
