"""Pictures from measurements: linear operators, restoration by filters and by residual steps, learned unrolling."""

from residyn.inverse.deblur import deblur
from residyn.inverse.filters import landweber_gain, landweber_remainder
from residyn.inverse.noise import noise_level
from residyn.inverse.operators import Blur, Downsample, Fourier, FromFunction, Inpainting, Operator, Radon
from residyn.inverse.psf import disk, gaussian, motion, normalised
from residyn.inverse.restoration import Forecast, Restoration
from residyn.inverse.rings import Rings
from residyn.inverse.schemes import ADMM, HQS, Fista
from residyn.inverse.spectrum_model import SpectrumModel, fit_spectrum
from residyn.inverse.steps import DataStep, FourierDescent, ProximalStep, data_block, spectral_data_step
from residyn.inverse.total_variation import TotalVariation
from residyn.inverse.unrolled import ProximalBranch, Unrolled
from residyn.inverse.wavelet import Wavelet, WaveletBranch
from residyn.inverse.wiener import Wiener, denoise, optimal_gain, ring_spectrum, snr

__all__ = [
    "ADMM",
    "HQS",
    "Blur",
    "DataStep",
    "Downsample",
    "Fista",
    "Forecast",
    "Fourier",
    "FourierDescent",
    "FromFunction",
    "Inpainting",
    "Operator",
    "ProximalBranch",
    "ProximalStep",
    "Radon",
    "Restoration",
    "Rings",
    "SpectrumModel",
    "TotalVariation",
    "Unrolled",
    "Wavelet",
    "WaveletBranch",
    "Wiener",
    "data_block",
    "deblur",
    "denoise",
    "disk",
    "fit_spectrum",
    "gaussian",
    "landweber_gain",
    "landweber_remainder",
    "motion",
    "noise_level",
    "normalised",
    "optimal_gain",
    "ring_spectrum",
    "snr",
    "spectral_data_step",
]
