"""Shrinkage by class and by row, against SciPy; cross-fitting; the exported model."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, minimize_scalar

from residyn.calibrate import Calibrated, ClassShrink, InputShrink, Shrink, cross_fit, nll
from residyn.errors import InputError, ResidynError


def record(n=1500, classes=4, seed=0):
    """Logits over-confident by a factor that depends on the predicted class: 1, 1.5, 2, …"""
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    y = torch.multinomial(torch.softmax(z, 1), 1, generator=g)[:, 0]
    return z * (1 + 0.5 * z.argmax(1, keepdim=True)), y


def test_class_scales_minimise_the_penalised_likelihood():
    z, y = record()
    fitted, common = ClassShrink(prior=5.0).fit(z, y), 1 - Shrink().fit(z, y).lam
    for c in range(4):
        rows = z.argmax(1) == c

        def loss(s, rows=rows):
            return nll(s * z[rows], y[rows]) * int(rows.sum()) + 2.5 * (s / common - 1) ** 2

        best = minimize_scalar(loss, bounds=(0.01, 5), method="bounded", options={"xatol": 1e-10}).x
        # a minimum located through values is good to the square root of their rounding
        assert 1 - float(fitted.lam[c]) == pytest.approx(best, rel=1e-6)
    assert fitted.lam.diff().min() > 0  # surer classes shrink more, as they were made


def test_input_scale_minimises_its_likelihood():
    z, y = record()
    fitted = InputShrink(prior=1e-6).fit(z, y)
    features = fitted._features(z)

    def loss(w):
        return nll(torch.exp(features @ torch.from_numpy(w))[:, None] * z, y)

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 4000})
    assert loss(fitted.weights.numpy()) <= best.fun + 1e-9
    assert loss(fitted.weights.numpy()) < nll(Shrink().fit(z, y).transform(z), y)


@pytest.mark.parametrize("calibrator", [Shrink(), ClassShrink(), InputShrink()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_prediction_changes(calibrator, dtype):
    z, y = record(seed=3)
    calibrator.fit(z[:700], y[:700])
    held = z[700:].to(dtype)
    out = calibrator.transform(held)
    assert out.dtype == dtype
    assert torch.equal(out.argmax(1), held.argmax(1))
    assert nll(out, y[700:]) < nll(held, y[700:])
    assert np.array_equal(calibrator.predict(held), held.argmax(1).numpy())
    assert np.allclose(calibrator.predict_proba(held).sum(1), 1)
    assert np.allclose(calibrator.transform(held.numpy()), out.numpy(), rtol=1e-6)


def test_cross_fit_uses_no_sample_for_itself():
    z, y = record(400)
    before = cross_fit(Shrink(), z, y, folds=4, seed=1)
    changed = y.clone()
    fold = torch.tensor_split(torch.randperm(400, generator=torch.Generator().manual_seed(1)), 4)[2]
    changed[fold] = (changed[fold] + 1) % 4
    after = cross_fit(Shrink(), z, changed, folds=4, seed=1)
    assert np.array_equal(before[fold], after[fold])  # its own labels do not matter to a sample
    assert not np.allclose(before, after)
    with pytest.raises(InputError, match=r"`folds` must be a whole number from 2 to the 400 samples, got 1; 5 is usual"):
        cross_fit(Shrink(), z, y, folds=1)


def test_scikit_learn_tools():
    base = pytest.importorskip("sklearn.base")
    pipeline = pytest.importorskip("sklearn.pipeline")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    z, y = record(300)
    assert base.clone(ClassShrink(prior=3.0)).prior == 3.0
    assert ClassShrink().set_params(prior=2.0).get_params() == {"prior": 2.0}
    made = pipeline.make_pipeline(preprocessing.FunctionTransformer(lambda a: 2 * a), Shrink()).fit(z.numpy(), y.numpy())
    assert made[-1].lam == pytest.approx(1 - (1 - Shrink().fit(z, y).lam) / 2, abs=1e-10)
    assert made.predict_proba(z.numpy()).shape == (300, 4)
    assert base.is_classifier(Shrink())
    with pytest.raises(ResidynError, match=r"`width` must be an argument of Shrink, which has \['start'\]"):
        Shrink().set_params(width=1)


def test_exported_model():
    model = torch.nn.Linear(3, 4)
    z, y = record(300)
    shrink = Shrink().fit(z, y)
    x = torch.randn(5, 3)
    wrapped = Calibrated(model, shrink)
    assert torch.allclose(wrapped(x), (1 - shrink.lam) * model(x))
    wrapped(x).sum().backward()  # a model to go on with
    assert model.weight.grad is not None

    class Named(torch.nn.Module):
        def forward(self, x):
            return {"logits": x, "other": x + 1}

    out = Calibrated(Named(), shrink)(x)
    assert torch.allclose(out["logits"], (1 - shrink.lam) * x)
    assert torch.equal(out["other"], x + 1)

    class Tupled(torch.nn.Module):
        def forward(self, x):
            return (x,)

    with pytest.raises(
        InputError, match=r"`model` must return a tensor of logits or a mapping with `logits`, got tuple; wrap it"
    ):
        Calibrated(Tupled(), shrink)(x)
    with pytest.raises(ResidynError, match=r"`Shrink` must be fitted before `transform`"):
        Calibrated(model, Shrink())


def test_bad_prior_is_named():
    z, y = record(100)
    for kind in (ClassShrink, InputShrink):
        with pytest.raises(InputError, match=r"`prior` must be > 0, got 0; 10 samples is usual"):
            kind(prior=0).fit(z, y)
