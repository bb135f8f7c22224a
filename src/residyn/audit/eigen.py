"""Leading eigenvalues of a branch's Jacobian from a dozen products, and the step that they allow."""

from __future__ import annotations

import torch

from residyn.analysis.jacobian import Jacobian


def leading(jacobian: Jacobian, products: int = 12) -> list[complex]:
    """Ritz values of J = ∂F/∂x by decreasing modulus: estimates of its outer eigenvalues.

    Args:
        jacobian: J.
        products: Steps of Arnoldi's process.

    Returns:
        At most half as many values as products; the inner ones say nothing of J.

    Reference:
        Saad (2011), "Numerical Methods for Large Eigenvalue Problems", ch. 6, doi:10.1137/1.9781611970739.
    """
    basis = [jacobian.random()]
    size = min(products, jacobian.size)
    matrix = torch.zeros(size + 1, size, dtype=torch.float64)
    for j in range(size):
        image = jacobian.apply(basis[-1])
        for _ in range(2):
            for i, v in enumerate(basis):
                part = torch.dot(v, image)
                matrix[i, j] += float(part)
                image = image - part * v
        norm = float(torch.linalg.vector_norm(image))
        matrix[j + 1, j] = norm
        if norm <= 1e-6 * float(matrix[: j + 1, : j + 1].abs().max()):
            size = j + 1
            break
        basis.append(image / norm)
    values = torch.linalg.eigvals(matrix[:size, :size])
    order = values.abs().argsort(descending=True)
    return [complex(v) for v in values[order][: max(1, (size + 1) // 2)]]


def step_limit(values: list[complex]) -> float:
    """The largest h with |1 + h·λ| ≤ 1 for all λ: min of -2·Re λ/|λ|², 0 if one points outwards.

    >>> step_limit([complex(-4), complex(-1, 1)])
    0.5
    >>> step_limit([complex(1), complex(-1)])
    0.0
    """
    top = max((abs(v) for v in values), default=0.0)
    # A modulus far below the largest one is rounding, and asks nothing.
    limits = [max(0.0, -2 * v.real / abs(v) ** 2) for v in values if abs(v) > 1e-4 * top]
    return min(limits, default=float("inf"))
