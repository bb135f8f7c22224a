"""What is known of a branch: norms, spectrum, and how large a step may be."""

from residyn.analysis.arnoldi import spectrum
from residyn.analysis.norms import log_norm, spectral_norm
from residyn.analysis.stability import max_stable_step

__all__ = ["log_norm", "max_stable_step", "spectral_norm", "spectrum"]
