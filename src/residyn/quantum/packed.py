"""Coulomb and exchange as two dense matrices over packed pairs, in an orthonormal basis."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Pairs:
    """How Hermitian matrices are packed: real parts by the lower triangle, imaginary ones by the strict lower triangle.

    Args:
        n: Number of basis functions.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        i, j = torch.tril_indices(n, n)
        self.lower = i * n + j  # (n(n+1)/2,)
        self.weight = torch.where(i == j, 1.0, 2.0).double()
        a, b = torch.tril_indices(n, n, -1)
        self.strict = a * n + b  # (n(n-1)/2,)
        place = torch.zeros(n, n, dtype=torch.long)
        place[i, j] = place[j, i] = torch.arange(len(i))
        self.place = place.flatten()
        anti = torch.zeros(n, n, dtype=torch.long)
        anti[a, b] = anti[b, a] = torch.arange(len(a))
        self.anti = anti.flatten()
        self.sign = torch.sign(torch.arange(n)[:, None] - torch.arange(n)[None, :]).double().flatten()
        # the same for matrices seen as real numbers, 2·n² of them: where each of the n² lies, and back with its sign
        self.taken = torch.cat([2 * self.lower, 2 * self.strict + 1])
        self.given = torch.stack([self.place, len(self.lower) + self.anti], -1).flatten()
        self.signs = torch.stack([torch.ones_like(self.sign), self.sign], -1).flatten()
        if n == 1:
            self.given[1], self.signs[1] = 0, 0.0

    def pack(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of Hermitian matrices `(…, s, n, n)` as `(…, s, n(n+1)/2)` and `(…, s, n(n-1)/2)`."""
        flat = matrix.flatten(-2)
        return flat.real[..., self.lower], flat.imag[..., self.strict]

    def flat(self, matrix: Tensor) -> Tensor:
        """Both parts of `(…, s, n, n)` in one row, `(…, s·n²)`, spin by spin."""
        return torch.view_as_real(matrix).flatten(-3).index_select(-1, self.taken).flatten(-2)

    def whole(self, numbers: Tensor, spins: int) -> Tensor:
        """The inverse, `(…, s, n, n)`."""
        shape = (*numbers.shape[:-1], spins)
        rows = numbers.reshape(*shape, -1).index_select(-1, self.given) * self.signs
        return torch.view_as_complex(rows.reshape(*shape, self.n, self.n, 2))

    def unpack(self, real: Tensor, imaginary: Tensor | None) -> Tensor:
        """Hermitian matrices `(…, s, n, n)`, complex."""
        shape = (*real.shape[:-1], self.n, self.n)
        symmetric = real[..., self.place].reshape(shape)
        if imaginary is None or self.n == 1:
            return symmetric.to(torch.complex128)
        return torch.complex(symmetric, (imaginary[..., self.anti] * self.sign).reshape(shape))


class Packed:
    """V[P] = J[P] - c·K[P] of a spin density matrix, from two-electron integrals in an orthonormal basis.

    J_ij = Σ (ij|kl)·P_kl needs the real part of P, K_ij = Σ (ik|jl)·P_kl both; each is one product with a matrix over pairs.

    Args:
        coulomb: (ij|kl), `(n, n, n, n)`.
        exchange: Integrals of the exchange, scaled by its share; `None` for none, the same array for Hartree–Fock.
        spins: 1 (P is the total density matrix) or 2.
    """

    def __init__(self, coulomb: np.ndarray, exchange: np.ndarray | None, spins: int) -> None:
        n = coulomb.shape[0]
        self.pairs, self.spins = Pairs(n), spins
        i, j = (index.numpy() for index in torch.tril_indices(n, n))
        a, b = (index.numpy() for index in torch.tril_indices(n, n, -1))
        weight = self.pairs.weight
        # (p|q) with p = (i, j), q = (k, l); columns weighted, so that a product sums over both triangles
        self.coulomb = torch.from_numpy(coulomb[i[:, None], j[:, None], i[None], j[None]]) * weight
        self.symmetric: Tensor | None = None
        self.antisymmetric: Tensor | None = None
        if exchange is not None:
            ik_jl = exchange[i[:, None], i[None], j[:, None], j[None]]
            il_jk = exchange[i[:, None], j[None], j[:, None], i[None]]
            self.symmetric = -torch.from_numpy(0.5 * (ik_jl + il_jk)) * weight
            self.antisymmetric = -torch.from_numpy(
                exchange[a[:, None], a[None], b[:, None], b[None]] - exchange[a[:, None], b[None], b[:, None], a[None]]
            )
        if spins == 1:  # half the exchange of the total density matrix; one product for both
            self.coulomb = self.coulomb if self.symmetric is None else self.coulomb + 0.5 * self.symmetric
            self.antisymmetric = None if self.antisymmetric is None else 0.5 * self.antisymmetric

    def __call__(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor | None]:
        """V, packed, of P, packed, `(…, s, pairs)`; the imaginary part is `None` without exchange."""
        if self.spins == 1:
            symmetric = real @ self.coulomb.T
        else:
            symmetric = (real.sum(-2, keepdim=True) @ self.coulomb.T).expand(real.shape)
            symmetric = symmetric if self.symmetric is None else symmetric + real @ self.symmetric.T
        return symmetric, None if self.antisymmetric is None else imaginary @ self.antisymmetric.T

    def matrices(self) -> tuple[Tensor, Tensor | None]:
        """V as matrices over (spin, pair): of the real part `(s·p, s·p)`, and of the imaginary part or `None`."""
        if self.spins == 1:
            return self.coulomb, self.antisymmetric
        eye = torch.eye(2, dtype=torch.float64)
        real = torch.kron(torch.ones(2, 2, dtype=torch.float64), self.coulomb)
        if self.symmetric is not None:
            real = real + torch.kron(eye, self.symmetric)
        return real, None if self.antisymmetric is None else torch.kron(eye, self.antisymmetric)
