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


def test_a_prior_moves_the_further_the_more_is_observed() -> None:
    prior = Prior(2, torch.tensor([0.5, 0.5]))
    before = prior.state_dict()["precision_KK"].clone()
    none_MK = torch.zeros(0, 2)
    prior.adapt(none_MK, none_MK, torch.zeros(0).long(), strength=4.0, shrinkage=0.5)
    torch.testing.assert_close(prior.mean_RK, torch.full((3, 2), 0.5))
    torch.testing.assert_close(prior.precision_KK, before)
    # Twelve strips of the first role, all 0.2 higher in the first setting; nothing else is heard.
    position_MK = torch.tensor([[0.7, 0.1]]).repeat(12, 1)
    weight_MK = torch.tensor([[1.0, 0.0]]).repeat(12, 1)
    prior.adapt(position_MK, weight_MK, torch.ones(12).long(), strength=4.0, shrinkage=0.0)
    common = 0.2 * 12 / 16
    own = (0.2 * 12 + 4 * common) / 16
    expected_RK = 0.5 + torch.tensor([[common, 0.0], [own, 0.0], [common, 0.0]])
    torch.testing.assert_close(prior.mean_RK, expected_RK)
    # A deviation of a quarter counts as four observations; the twelve lie 0.2 - `own` from theirs.
    variance = (4 * 0.25**2 + 12 * (0.2 - own) ** 2) / 16
    covariance_KK = torch.linalg.inv(prior.precision_KK)
    torch.testing.assert_close(covariance_KK, torch.diag(torch.tensor([variance, 0.25**2])))
