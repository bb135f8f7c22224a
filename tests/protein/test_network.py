"""Elastic networks against their definitions, ProDy where it is installed, and the step limit of diffusion on them."""

import math

import numpy as np
import pytest
import torch

from residyn.analysis import max_stable_step
from residyn.errors import InputError
from residyn.protein import anm, gnm, read, sample
from residyn.protein.network import flexibility
from residyn.step import Residual


@pytest.fixture(scope="module")
def protein():
    return read(sample("5rsa"))


def kirchhoff(xyz, cutoff):
    """Γ by its definition, pair by pair."""
    n = len(xyz)
    found = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and np.linalg.norm(xyz[i] - xyz[j]) <= cutoff:
                found[i, j] = -1
                found[i, i] += 1
    return found


def test_gnm_is_the_laplacian_of_contacts(protein):
    xyz = protein.atoms["CA"][:40]
    np.testing.assert_array_equal(gnm(xyz, 8.0).stiffness.toarray(), kirchhoff(xyz, 8.0))


def test_anm_is_the_second_derivative_of_its_energy(protein):
    xyz = torch.from_numpy(protein.atoms["CA"][:12])
    pairs = [(i, j) for i in range(12) for j in range(i) if float((xyz[i] - xyz[j]).norm()) <= 15.0]

    def energy(flat):
        at = flat.reshape(-1, 3)
        return sum(((at[i] - at[j]).norm() - (xyz[i] - xyz[j]).norm()) ** 2 / 2 for i, j in pairs)

    hessian = torch.autograd.functional.hessian(energy, xyz.flatten())
    np.testing.assert_allclose(anm(xyz.numpy()).stiffness.toarray(), hessian, atol=1e-12)


@pytest.mark.parametrize(("make", "zeros"), [(gnm, 1), (anm, 6)])
def test_modes_solve_the_eigenproblem(protein, make, zeros):
    network = make(protein.atoms["CA"])
    modes = network.modes(12)
    dense = network.stiffness.toarray()
    truth = np.linalg.eigvalsh(dense)
    np.testing.assert_allclose(modes.values, truth[zeros : zeros + 12], rtol=1e-9)
    np.testing.assert_allclose(dense @ modes.vectors, modes.vectors * modes.values, atol=1e-9)
    np.testing.assert_allclose(modes.vectors.T @ modes.vectors, np.eye(12), atol=1e-9)
    assert modes.mobility.shape == (len(dense),)


def test_few_modes_of_a_large_network_are_those_of_the_dense_problem():
    # 500 points in a box: large enough for the iterative path
    xyz = np.random.default_rng(0).uniform(0, 30, (500, 3))
    network = gnm(xyz)
    np.testing.assert_allclose(network.modes(20).values, np.linalg.eigvalsh(network.stiffness.toarray())[1:21], rtol=1e-8)


def test_parts_that_do_not_touch_have_zero_modes_more(protein):
    xyz = np.concatenate([protein.atoms["CA"], protein.atoms["CA"] + 200.0])
    both, one = gnm(xyz).modes(4), gnm(protein.atoms["CA"]).modes(2)
    np.testing.assert_allclose(both.values, np.repeat(one.values, 2), rtol=1e-9)


def test_diffusion_is_stable_up_to_two_over_the_largest_eigenvalue(protein):
    network = gnm(protein.atoms["CA"])
    x = torch.randn(len(protein), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eta = float(max_stable_step(network, x))
    assert eta == pytest.approx(2 / np.linalg.eigvalsh(network.stiffness.toarray())[-1], rel=1e-12)
    assert float(network.norm_bound()) >= 2 / eta
    norms = []
    for step in (0.999 * eta, 1.02 * eta):
        block, y = Residual(network, step), x
        for _ in range(3000):
            y = block(y)
        norms.append(float(y.norm()))
    assert norms[0] < float(x.norm())
    assert norms[1] > 1e6


def test_modes_agree_with_prody(protein):
    prody = pytest.importorskip("prody")
    prody.confProDy(verbosity="none")
    xyz = protein.atoms["CA"]
    for make, name, build in ((gnm, "GNM", "buildKirchhoff"), (anm, "ANM", "buildHessian")):
        peer = getattr(prody, name)("x")
        getattr(peer, build)(xyz)
        peer.calcModes(n_modes=20)
        own = make(xyz).modes(20)
        np.testing.assert_allclose(own.values, peer.getEigvals(), rtol=1e-6)
        overlap = np.abs((own.vectors * peer.getEigvecs()).sum(axis=0))
        np.testing.assert_allclose(overlap, 1.0, atol=1e-6)


def test_variances_are_scaled_resistances(protein):
    xyz, b = protein.atoms["CA"], protein.b_factors
    pairs = np.array([(i, i + 1) for i in range(0, 100, 7)])
    found = flexibility(xyz, b, pairs)
    G = np.linalg.pinv(kirchhoff(xyz, 10.0))
    spring = 8 * math.pi**2 * np.diag(G).mean() / b.mean()
    truth = (np.diag(G)[pairs].sum(1) - 2 * G[pairs[:, 0], pairs[:, 1]]) / spring
    np.testing.assert_allclose(found.variance, truth, rtol=1e-8)
    assert found.spring == pytest.approx(spring, rel=1e-8)
    assert found.correlation == pytest.approx(np.corrcoef(b, np.diag(G))[0, 1], abs=1e-8)
    assert found.correlation > 0.4  # theory follows the crystal's mobility


def test_without_b_factors_their_usual_mean_sets_the_scale(protein):
    xyz = protein.atoms["CA"]
    pairs = np.array([[0, 1]])
    for b in (None, np.zeros(len(xyz)), np.full(len(xyz), np.nan)):
        found = flexibility(xyz, b, pairs)
        assert not found.measured
        assert math.isnan(found.correlation)
    same = flexibility(xyz, np.full(len(xyz), 20.0), pairs)
    assert same.measured
    assert same.variance[0] == pytest.approx(found.variance[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gnm(np.zeros((1, 3))), "`xyz` must be finite coordinates of at least two nodes"),
        (lambda: gnm(np.full((3, 3), np.nan)), "`xyz` must be finite coordinates"),
        (lambda: anm(np.zeros((3, 2))), "got the shape (3, 2)"),
        (lambda: gnm(np.eye(3), cutoff=0.0), "`cutoff` must be > 0 Å, got 0"),
        (lambda: anm(np.zeros((3, 3))), "`xyz` must hold different points"),
        (lambda: gnm(np.eye(3)).modes(0), "`k` must be at least 1, got 0"),
    ],
)
def test_refused(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
