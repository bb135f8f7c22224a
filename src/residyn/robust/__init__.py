"""Robustness of classifiers: how far an input may move before the answer changes, proved from below, attacked from above."""

from residyn.robust.attacking import Adversarial, attack
from residyn.robust.certificate import Radius, certify
from residyn.robust.nearest import Nearest, nearest
from residyn.robust.stretching import stretch
from residyn.robust.trading import Point, TradeOff, trade_off

__all__ = ["Adversarial", "Nearest", "Point", "Radius", "TradeOff", "attack", "certify", "nearest", "stretch", "trade_off"]
