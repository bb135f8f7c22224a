"""The conformance suite of operators finds the faults that it names."""

import pytest
import torch

from residyn.errors import InputError
from residyn.inverse import Inpainting, Operator
from residyn.results import Estimate
from residyn.testing import ConformanceError, check_operator


class Faulty(Inpainting):
    """A mask with one fault."""

    def __init__(self, fault=""):
        super().__init__(torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64))
        self.fault = fault

    def forward(self, x):
        if self.fault == "affine":
            return super().forward(x) + 1
        if self.fault == "detached":
            return super().forward(x.detach())
        if self.fault == "coupled":
            return super().forward(x) + (x.roll(1, 0) if x.ndim > 1 else 0)
        if self.fault == "writes":
            return x.mul_(self.mask)
        if self.fault == "single":
            return super().forward(x).float()
        if self.fault == "infinite":
            return super().forward(x) / 0
        return super().forward(x)

    def adjoint(self, y):
        if self.fault == "shape":
            return torch.cat([y, y], -1)
        return 2 * super().adjoint(y) if self.fault == "adjoint" else super().adjoint(y)

    def normal(self, x):
        return x if self.fault == "normal" else super().normal(x)

    def norm_bound(self):
        return Estimate({"low": 1.9, "loose": 2.1}.get(self.fault, 2.0), "certified")

    @property
    def spectrum(self):
        return self.mask + 1 if self.fault == "spectrum" else self.mask


@pytest.mark.parametrize(
    "fault, law",
    [
        ("affine", "linear"), ("adjoint", "adjoint"), ("normal", "normal"), ("coupled", "batch"), ("detached", "gradient"),
        ("low", "norm_bound"), ("loose", "tight"), ("spectrum", "power"), ("writes", "input"), ("shape", "domain"),
        ("single", "dtype"), ("infinite", "finite"),
    ],
)  # fmt: skip
def test_a_fault_is_named(fault, law):
    with pytest.raises(ConformanceError, match=f"law `{law}`"):
        check_operator(Faulty(fault))


def test_a_sound_one_passes():
    assert all(finding.verdict == "pass" for finding in check_operator(Faulty()))


def test_what_is_no_operator_is_refused():
    with pytest.raises(InputError, match="`op` must have domain"):
        check_operator(torch.nn.Linear(2, 2))
    assert issubclass(Inpainting, Operator)
