"""What is known of a branch: norms, spectrum, how large a step may be, and certified bounds."""

from residyn.analysis.arnoldi import spectrum
from residyn.analysis.constrain import constrain
from residyn.analysis.lipschitz import lipschitz, operator_norm
from residyn.analysis.norms import log_norm, spectral_norm
from residyn.analysis.stability import max_stable_step

__all__ = ["constrain", "lipschitz", "log_norm", "max_stable_step", "operator_norm", "spectral_norm", "spectrum"]
