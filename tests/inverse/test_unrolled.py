"""Unrolled networks: classical at first, the same gradient in every mode, and the one that ships."""

from pathlib import Path

import numpy as np
import pytest
import torch

import residyn as rd
from residyn.errors import InputError, ResidynError
from residyn.inverse import (
    Blur,
    FromFunction,
    Inpainting,
    ProximalBranch,
    Radon,
    Unrolled,
    data_block,
    deblur,
    gaussian,
    motion,
)
from residyn.inverse.pretrained import load, save_network
from residyn.inverse.training import fit_unrolled

from .pictures import blurred, psnr, scene

F64 = torch.float64


def small(depth=3, gradient=None, data="proximal", seed=0):
    torch.manual_seed(seed)
    op = Blur(gaussian(1.0), (20, 24), "circular")
    net = Unrolled(op, depth, ProximalBranch(6), data=data, gradient=gradient).double()
    for branch in net.prox:
        torch.nn.init.normal_(branch.last.weight, std=0.05)
        torch.nn.init.normal_(branch.told.weight, std=0.05)
    return net


def test_at_first_it_is_gradient_descent():
    for op in (
        Blur(gaussian(1.0), (20, 24)),
        Radon(16, range(0, 180, 20), dtype=F64),
        FromFunction(lambda x: 2 * x, (9, 9), dtype=F64),
    ):
        b = op(torch.rand(op.domain, dtype=F64))
        net = Unrolled(op, 7).double()
        block, x = data_block(op, b, 1 / float(op.norm_bound()) ** 2), torch.zeros(op.domain, dtype=F64)
        for _ in range(7):
            x = block(x)
        # the step size passes through a float32 logarithm: 6e-8 relative a block
        torch.testing.assert_close(net(b), x, rtol=0, atol=1e-5)


def test_at_first_the_proximal_form_is_the_wiener_filter():
    _clean, b = blurred()
    op = Blur(gaussian(1.5), tuple(b.shape), "circular")
    linear = deblur(b, gaussian(1.5), boundary="circular")
    first = Unrolled(op, 1, data="proximal").double()(b, model=linear.model)
    # the filter keeps the mean; so does this to the precision of its penalty at f = 0, which is σ²/S(0)
    torch.testing.assert_close(first - first.mean(), linear.image - linear.image.mean(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("data", ["gradient", "proximal"])
@pytest.mark.parametrize("mode", [rd.Checkpoint(), rd.Checkpoint(segments=2), rd.Replay()])
def test_gradients_are_those_of_backprop(data, mode):
    b = torch.rand(2, 20, 24, dtype=F64, generator=torch.Generator().manual_seed(0))
    grads = []
    for gradient in (None, mode):
        net = small(5, gradient, data)
        net(b).square().sum().backward()
        grads.append([p.grad for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 5
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_the_fixed_point_and_its_gradient():
    """Implicit: x = block(x) to the root's tolerance, the gradient that of a long unrolled chain of the same block."""
    op = Inpainting(torch.linspace(0.7, 1.0, 80, dtype=F64).reshape(8, 10))  # a contraction by 1 - 0.49

    def made(depth, gradient=None):
        torch.manual_seed(0)
        net = Unrolled(op, depth, ProximalBranch(4), gradient=gradient).double()
        first = net.prox[0]
        torch.nn.init.normal_(first.last.weight, std=0.02)
        for branch in net.prox:
            branch.load_state_dict(first.state_dict())
        return net

    b = torch.rand(8, 10, dtype=F64, generator=torch.Generator().manual_seed(0))
    net, chain = made(200, rd.Implicit(root=rd.Anderson(tol=1e-10))), made(80)
    out = net(b)
    out.square().sum().backward()
    assert bool(net.forward_root.converged.all())
    assert bool(net.backward_root.converged.all())
    # 0.51^80 is nothing; the root's tolerance, over 1 - 0.51 and relative to a norm of about 6
    torch.testing.assert_close(chain(b), out, rtol=0, atol=1e-8)
    chain(b).square().sum().backward()
    summed = sum(branch.last.weight.grad for branch in chain.prox)
    torch.testing.assert_close(net.prox[0].last.weight.grad, summed, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_checkpointed_training_takes_a_twentieth_of_the_memory(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.inverse import peak

    assert peak(rd.Backprop(), 40, 64) >= 20 * peak(rd.Checkpoint(), 40, 64)


def test_training_lowers_the_error():
    torch.manual_seed(0)
    picture = scene(128, 128, torch.float32)
    net = Unrolled(Blur(gaussian(1.5).float(), (32, 32), "circular"), 2, ProximalBranch(8), data="proximal")
    told = []
    done = fit_unrolled(
        net, [picture], lambda g: (gaussian(1.5), 0.02), seconds=1e6, steps=60, batch=4, side=32, progress=lambda f, t: told.append(t)
    )  # fmt: skip
    assert done.steps == 60
    assert np.mean(done.losses[-15:]) < np.mean(done.losses[:15])
    assert told[0].startswith("step 0, ")
    with pytest.raises(InputError, match="must have one of at least 500 pixels on each side, got 1 smaller ones"):
        fit_unrolled(net, [picture], lambda g: (gaussian(1.5), 0.02), seconds=1, side=500)


@pytest.mark.parametrize("psf", [gaussian(2.0), motion(11, 30)], ids=["gaussian", "motion"])
def test_the_network_that_ships_beats_the_filter_it_starts_from(psf):
    """On the camera, which it has not seen."""
    from residyn.atlas.data import picture

    clean, b = blurred(0.01, clean=picture("camera").float(), dtype=torch.float32)
    b = Blur(psf.float(), tuple(clean.shape), "circular")(clean) + 0.01 * torch.randn(
        clean.shape, generator=torch.Generator().manual_seed(0)
    )
    linear, learned = (deblur(b, psf, method=m, boundary="circular").image for m in ("auto", "unrolled"))
    assert psnr(learned, clean) > psnr(linear, clean) + 0.9
    if psf.shape[0] == 17:
        assert psnr(learned, clean) >= 28.6
        assert psnr(learned, clean) > psnr(deblur(b, psf, method="tv", boundary="circular", steps=60).image, clean)


def test_a_lopsided_kernel_keeps_its_phase():
    """In another precision than the picture's: a transfer function cast to real numbers would move the picture."""
    psf = torch.zeros(7, 7, dtype=F64)
    psf[3, 3:] = torch.tensor([0.4, 0.3, 0.2, 0.1])
    clean = scene()
    b = Blur(psf, tuple(clean.shape), "circular")(clean)
    for boundary in ("circular", "symmetric"):
        restored = deblur(b, psf, method="unrolled", boundary=boundary).image
        assert restored.dtype == F64
        assert psnr(restored, clean) > psnr(b, clean) + 3


def test_networks_come_back_from_their_file(tmp_path):
    net = small(4).float()
    save_network(net, tmp_path / "n.safetensors", trained="never")
    back = load(tmp_path / "n.safetensors")
    b = torch.rand(20, 24)
    op = Blur(gaussian(1.0).float(), (20, 24), "circular")
    torch.testing.assert_close(back(b, op=op), net(b, op=op))
    assert list(tmp_path.iterdir()) == [tmp_path / "n.safetensors"]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda p: load(p / "none"), "`weights` must be a safetensors file of an Unrolled network, got .*none"),
        (lambda p: load(p / "text"), "`weights` must be a safetensors file"),
        (lambda p: load(p / "other"), "`weights` must hold a network written by save_network"),
        (lambda p: save_network(small(2, data="gradient"), p / "x"), "`network` must be made of ProximalBranches"),
        (lambda p: save_network(small(1), p / "folder"), "could not be written"),
        (lambda p: Unrolled(Inpainting(torch.ones(4, 4)), 0), "`depth` must be a whole number >= 1, got 0"),
        (lambda p: Unrolled(Inpainting(torch.ones(4, 4)), 1, data="x"), "`data` must be 'gradient' or 'proximal'"),
        (lambda p: Unrolled(Inpainting(torch.ones(4, 4)), 1, data="proximal"), "`op` must be a circular Blur"),
        (lambda p: small()(torch.rand(20, 24, dtype=F64), op=Blur(gaussian(1.0), (20, 24), "unknown")), "`op` must be a circular Blur"),
        (lambda p: deblur(torch.rand(8, 8, 8), gaussian(0.2, 0.2, 0.2), method="unrolled"), "`method` must be auto, tv or landweber for a volume"),
    ],
)  # fmt: skip
def test_bad_input_is_named(tmp_path, call, words):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("hello")
    (tmp_path / "folder").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ResidynError, match=words):
        call(tmp_path)
