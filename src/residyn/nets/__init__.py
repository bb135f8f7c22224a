"""Small exemplary networks on the step: a perceptron as branch, and residual networks, explicit and implicit, of branches."""

from residyn.nets.implicit import Dissipative, ImplicitResidual, ImplicitResNet
from residyn.nets.mlp import MLP
from residyn.nets.propagation import GradientProfile, gradient_profile, relu_correlation
from residyn.nets.resnet import ResNet, survival

__all__ = [
    "MLP",
    "Dissipative",
    "GradientProfile",
    "ImplicitResNet",
    "ImplicitResidual",
    "ResNet",
    "gradient_profile",
    "relu_correlation",
    "survival",
]
