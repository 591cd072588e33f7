"""Distances of two sets of pieces of music by embeddings of them: what no single piece can tell.

Shape suffixes: P and Q piece, E embedding, D dimension of a latent, N frame.

Sources: Chung et al., "KAD: No More FAD!" (arXiv 2502.15602): the unbiased estimate of the squared
maximum mean discrepancy with a Gaussian kernel, whose bandwidth is the median distance of the
reference, times 1,000; Kilgour et al., "Fréchet Audio Distance" (arXiv 1812.08466).
"""

import torch
from scipy.linalg import sqrtm
from torch import Tensor

_SCALE = 1_000.0


def kernel_distance(embedding_PE: Tensor, reference_QE: Tensor) -> float:
    """Estimate the kernel audio distance; without bias, so below 0 at times for equal sets.

    Raises:
        ValueError: a set has less than two pieces.
    """
    _check(embedding_PE, reference_QE)
    x_PE, y_QE = embedding_PE.double(), reference_QE.double()
    distance_QQ = torch.cdist(y_QE, y_QE)
    bandwidth = torch.pdist(y_QE).median().clamp_min(torch.finfo(torch.float64).tiny)

    def kernel(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / bandwidth).square())

    def mean_of_others(square: Tensor) -> Tensor:
        size = len(square)
        return (square.sum() - square.diagonal().sum()) / (size * (size - 1))

    same = mean_of_others(kernel(torch.cdist(x_PE, x_PE))) + mean_of_others(kernel(distance_QQ))
    return float(_SCALE * (same - 2 * kernel(torch.cdist(x_PE, y_QE)).mean()))


def frechet_distance(embedding_PE: Tensor, reference_QE: Tensor) -> float:
    """Measure the distance of two Gaussians that are fitted to the sets; it falls with their size.

    Raises:
        ValueError: a set has less than two pieces.
    """
    _check(embedding_PE, reference_QE)
    x_PE, y_QE = embedding_PE.double(), reference_QE.double()
    x_EE, y_EE = (torch.atleast_2d(torch.cov(each.T)) for each in (x_PE, y_QE))
    between = torch.from_numpy(sqrtm((x_EE @ y_EE).numpy()).real)
    mean = (x_PE.mean(dim=0) - y_QE.mean(dim=0)).square().sum()
    return float(mean + x_EE.trace() + y_EE.trace() - 2 * between.trace())


def _check(embedding_PE: Tensor, reference_QE: Tensor) -> None:
    if min(len(embedding_PE), len(reference_QE)) < 2:
        raise ValueError(
            "expected two pieces or more in each set, got "
            f"{len(embedding_PE)} and {len(reference_QE)}"
        )
