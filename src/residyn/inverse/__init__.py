"""Pictures from measurements: denoising as one linear residual step."""

from residyn.inverse.noise import noise_level
from residyn.inverse.rings import Rings
from residyn.inverse.wiener import Wiener, denoise, optimal_gain, ring_spectrum, snr

__all__ = ["Rings", "Wiener", "denoise", "noise_level", "optimal_gain", "ring_spectrum", "snr"]
