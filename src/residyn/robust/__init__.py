"""Robustness of classifiers: how far an input may move before the answer changes, proved from below, attacked from above."""

from residyn.robust.attacking import Adversarial, attack
from residyn.robust.certificate import Radius, certify
from residyn.robust.nearest import nearest

__all__ = ["Adversarial", "Radius", "attack", "certify", "nearest"]
