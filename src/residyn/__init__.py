"""Residyn: the residual step x⁺ = x + h·F(x), repeated, analysed, and put to work."""

__version__ = "0.1.0"
