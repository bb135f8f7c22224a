"""Pictures from measurements: denoising as one linear residual step."""

from residyn.inverse.wiener import Wiener, denoise, noise_level, optimal_gain, snr

__all__ = ["Wiener", "denoise", "noise_level", "optimal_gain", "snr"]
