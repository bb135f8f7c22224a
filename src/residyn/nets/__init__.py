"""Small exemplary networks on the step: perceptrons, residual networks, U-Nets and transformers, with their theory."""

from residyn.nets.admissible import Admissible, admissible_alpha
from residyn.nets.coupled import Coupling, ReversibleStack
from residyn.nets.dropping import Gates, gates, stochastic_depth
from residyn.nets.implicit import Dissipative, ImplicitResidual, ImplicitResNet
from residyn.nets.inits import fixup_, skip_init
from residyn.nets.mlp import MLP
from residyn.nets.propagation import GradientProfile, gradient_profile, relu_correlation
from residyn.nets.removal import RemovalCurve, removal_curve
from residyn.nets.resnet import ResNet, survival
from residyn.nets.transformer import Attention, FeedForward, Patches, Tokens, Transformer
from residyn.nets.unet import UNet

__all__ = [
    "MLP",
    "Admissible",
    "Attention",
    "Coupling",
    "Dissipative",
    "FeedForward",
    "Gates",
    "GradientProfile",
    "ImplicitResNet",
    "ImplicitResidual",
    "Patches",
    "RemovalCurve",
    "ResNet",
    "ReversibleStack",
    "Tokens",
    "Transformer",
    "UNet",
    "admissible_alpha",
    "fixup_",
    "gates",
    "gradient_profile",
    "relu_correlation",
    "removal_curve",
    "skip_init",
    "stochastic_depth",
    "survival",
]
