"""Linear operators of inverse problems, each with its adjoint and a bound on its norm."""

from residyn.inverse.operators.base import Operator
from residyn.inverse.operators.blur import Blur
from residyn.inverse.operators.custom import FromFunction
from residyn.inverse.operators.fourier import Fourier
from residyn.inverse.operators.sampling import Downsample, Inpainting
from residyn.inverse.operators.tomography import Radon

__all__ = ["Blur", "Downsample", "Fourier", "FromFunction", "Inpainting", "Operator", "Radon"]
