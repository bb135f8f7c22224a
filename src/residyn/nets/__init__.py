"""Small exemplary networks on the step: a multi-layer perceptron as branch, and residual networks made of branches."""

from residyn.nets.mlp import MLP
from residyn.nets.propagation import GradientProfile, gradient_profile, relu_correlation
from residyn.nets.resnet import ResNet, survival

__all__ = ["MLP", "GradientProfile", "ResNet", "gradient_profile", "relu_correlation", "survival"]
