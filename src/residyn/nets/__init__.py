"""Small exemplary networks on the step: a perceptron as branch, and residual networks, explicit and implicit, of branches."""

from residyn.nets.dropping import Gates, gates, stochastic_depth
from residyn.nets.implicit import Dissipative, ImplicitResidual, ImplicitResNet
from residyn.nets.mlp import MLP
from residyn.nets.propagation import GradientProfile, gradient_profile, relu_correlation
from residyn.nets.removal import RemovalCurve, removal_curve
from residyn.nets.resnet import ResNet, survival

__all__ = [
    "MLP",
    "Dissipative",
    "Gates",
    "GradientProfile",
    "ImplicitResNet",
    "ImplicitResidual",
    "RemovalCurve",
    "ResNet",
    "gates",
    "gradient_profile",
    "relu_correlation",
    "removal_curve",
    "stochastic_depth",
    "survival",
]
