"""Small exemplary networks on the step: perceptrons, residual networks, U-Nets and transformers, with their theory."""

from residyn.nets.admissible import Admissible, admissible_alpha
from residyn.nets.implicit import Dissipative, ImplicitResidual, ImplicitResNet
from residyn.nets.mlp import MLP
from residyn.nets.propagation import GradientProfile, gradient_profile, relu_correlation
from residyn.nets.resnet import ResNet, survival
from residyn.nets.transformer import Attention, FeedForward, Patches, Tokens, Transformer
from residyn.nets.unet import UNet

__all__ = [
    "MLP",
    "Admissible",
    "Attention",
    "Dissipative",
    "FeedForward",
    "GradientProfile",
    "ImplicitResNet",
    "ImplicitResidual",
    "Patches",
    "ResNet",
    "Tokens",
    "Transformer",
    "UNet",
    "admissible_alpha",
    "gradient_profile",
    "relu_correlation",
    "survival",
]
