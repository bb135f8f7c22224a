"""Real-time TDDFT of molecules: propagators that are residual steps, and spectra with absolute strengths."""

from residyn.quantum.corrector import Corrector
from residyn.quantum.hamiltonian import Absorber, KohnSham
from residyn.quantum.learning import HeldOut, Trained, train_corrector
from residyn.quantum.molecule import Molecule
from residyn.quantum.propagation import propagate, respond
from residyn.quantum.pulses import Continuous, CosineSquared, Gaussian
from residyn.quantum.response import Excitations, excitations
from residyn.quantum.spectrum import Peak, Spectrum, absorption, richardson
from residyn.quantum.stability import Stability, stability
from residyn.quantum.trajectory import PropagationError, Trajectory
from residyn.schemes import CFM4, ETRS, MMUT, AdamsMagnus, CrankNicolson, ExtrapolatedMidpoint, Magnus2

__all__ = [
    "CFM4",
    "ETRS",
    "MMUT",
    "Absorber",
    "AdamsMagnus",
    "Continuous",
    "Corrector",
    "CosineSquared",
    "CrankNicolson",
    "Excitations",
    "ExtrapolatedMidpoint",
    "Gaussian",
    "HeldOut",
    "KohnSham",
    "Magnus2",
    "Molecule",
    "Peak",
    "PropagationError",
    "Spectrum",
    "Stability",
    "Trained",
    "Trajectory",
    "absorption",
    "excitations",
    "propagate",
    "respond",
    "richardson",
    "stability",
    "train_corrector",
]
